r"""Write a BlockMNIST data set: in each image one block carries the label, the others never do.

examples:
  veridical make-block-mnist --out data/block-mnist
  veridical make-block-mnist --source mnist --classes two --null scramble --out data/blocks
  veridical make-block-mnist --layout 3 --null noise --position 0.5 --noise 0.05 --out data/grid
  veridical train --data data/block-mnist/data.npz --model mlp --objective natural --out runs/blocks

DIR/data.npz is a data set for every command, with the masks of the signal blocks beside the images;
DIR/result.json says how it was made, DIR/report.html shows it.
"""

from __future__ import annotations

from veridical.runtime.study_config import BlockFileOptions as Options

__all__ = ["Options", "run"]


def run(options: Options) -> int:
    """Make and write the data set, or find it written; print where it lies. Errors are raised."""
    from veridical.cli.terminal import say
    from veridical.studies.generated_data import write_block_mnist

    for line in write_block_mnist(options).lines():
        say(line)
    return 0
