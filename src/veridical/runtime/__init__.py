"""What every floor needs once: errors, atomic files, seeds, guards, devices, provenance, option dataclasses.

Nothing is imported here, so that `veridical.runtime.errors`, `.files` and `.config` stay free of torch.
"""
