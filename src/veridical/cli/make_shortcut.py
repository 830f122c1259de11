r"""Write a data set with a planted shortcut: a patch that agrees with the class in training.

examples:
  veridical make-shortcut --out data/shortcut
  veridical make-shortcut --source mnist-5k --rate 0.8 --test agreeing --out data/agreeing
  veridical make-shortcut --source mnist-5k --code presence --test gone --out data/gone

In the test images the patch agrees as often as in training, is moved independently of the class, or is gone.
DIR/data.npz is a data set for every command, with the masks of the patches beside the images; DIR/result.json
says how it was made, DIR/report.html shows it.
"""

from __future__ import annotations

from veridical.runtime.study_config import ShortcutFileOptions as Options

__all__ = ["Options", "run"]


def run(options: Options) -> int:
    """Make and write the data set, or find it written; print where it lies. Errors are raised."""
    from veridical.cli.terminal import say
    from veridical.studies.generated_data import write_shortcut

    for line in write_shortcut(options).lines():
        say(line)
    return 0
