"""Why a command ends without doing anything.

Refusal
├── weights.UnusableWeights       ├── graph.UnusableModel
├── labels.UnusableLabels         ├── package.UnusableRecipe
├── folder.UnusableOutput         ├── convert.Unconvertible
├── verify.UnusablePictures       ├── verify.Unfaithful
├── listing.UnusableData          ├── gate.GateClosed
├── download.Undelivered          ├── download.WrongBytes
├── wheel.UnusableWheel           ├── architectures.UnknownArchitecture
└── architectures.own.UnusableNetwork
"""


class Refusal(ValueError):
    """One line that says what was found and what was expected; the command line prints it and exits with 2."""
