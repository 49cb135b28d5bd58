"""What any predictor must do, as checks against an address. Ours and every foreign one pass the same.

`python -m cotenant.predictor.contract ADDRESS` runs them. They use devices with names of their own, so a predictor that
serves a stack can be checked too: ours never stores such devices, and forgets them minutes after they left.
"""

DEVICE_PREFIX = "cotenant-contract-"  # reserved: how the names of the checks' devices begin
