"""Models to serve, try and measure with: six families of networks at full and small size, and a sentence encoder.

`python -m cotenant.executor.zoo --repository DIR` writes them as a model repository; docs/zoo.md tells more. The
sentence encoder has real weights. The others have seeded random ones: latency does not depend on them.
"""

from cotenant.executor.zoo.building import build
from cotenant.executor.zoo.recipes import MODELS, SIZES, Recipe
from cotenant.executor.zoo.writing import FORMATS, write

__all__ = ["FORMATS", "MODELS", "SIZES", "Recipe", "build", "write"]
