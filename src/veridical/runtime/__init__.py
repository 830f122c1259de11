"""What every floor needs once: errors, checks of values, option groups, atomic files, seeds, guards, devices.

Nothing is imported here, so that `.errors`, `.checking`, `.options` and `.files` stay free of torch.
"""
