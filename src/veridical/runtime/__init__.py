"""What every floor needs once: errors, checks of values, option groups, atomic files, seeds, guards, devices.

Nothing is imported here, so that `veridical.runtime.errors`, `.checking`, `.options` and `.files` are free of torch.
"""
