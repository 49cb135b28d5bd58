"""The public protocol: checks requests, stages their tensors, answers each exactly once."""
