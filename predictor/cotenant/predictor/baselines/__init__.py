"""Published ways to predict slowdowns, as learners: what ours is judged against, kept runnable for ever."""
