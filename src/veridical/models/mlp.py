"""The multilayer perceptron with two hidden layers."""

from torch import Tensor, nn

from veridical.models.initialisation import blank_linear, he_normal, weight_generator
from veridical.models.normalized import PerChannel, Standardise


class MLP(nn.Module):
    """Flatten, two hidden ReLU layers of `width` units, linear: inputs (N, C, H, W) to logits (N, K).

    Weights from a He normal, biases zero. mean and std normalise the [0, 1] inputs inside.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        num_classes: int,
        seed: int,
        width: int = 256,
        mean: PerChannel = 0.5,
        std: PerChannel = 0.5,
    ) -> None:
        super().__init__()
        channels, height, columns = shape
        self.standardise = Standardise(mean, std)
        self.hidden1 = blank_linear(channels * height * columns, width)
        self.hidden2 = blank_linear(width, width)
        self.classify = blank_linear(width, num_classes)
        # Modules, not functions: methods such as guided backpropagation hook them.
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        generator = weight_generator(seed)
        for layer in (self.hidden1, self.hidden2, self.classify):
            he_normal(layer, generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, K) of inputs (N, C, H, W) in [0, 1]."""
        features = self.relu1(self.hidden1(self.standardise(inputs).flatten(1)))
        logits: Tensor = self.classify(self.relu2(self.hidden2(features)))
        return logits
