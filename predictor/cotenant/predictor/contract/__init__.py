"""What any predictor must do, as checks against an address. Ours and every foreign one pass the same.

`python -m cotenant.predictor.contract ADDRESS` runs them. They use devices with names of their own, so a predictor that
serves a stack can be checked too, at the price of a few devices that it will forget.
"""
