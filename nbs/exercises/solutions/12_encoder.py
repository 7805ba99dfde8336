from jaxtyping import Float
from torch import Tensor, nn

from minibert.config import BertConfig
from minibert.layer import BertLayer


class BertEncoder(nn.Module):
    "Layers, each fed with what the one before it returned."

    def __init__(self, config: BertConfig):
        super().__init__()
        self.layer = nn.ModuleList([BertLayer(config) for _ in range(config.num_hidden_layers)])

    def forward(
        self,
        hidden_states: Float[Tensor, "batch seq hidden"],  # the embedded tokens
        attention_mask: Float[Tensor, "batch 1 1 seq"],  # added to the scores of each layer
    ) -> tuple[Float[Tensor, "batch seq hidden"], tuple[Float[Tensor, "batch seq hidden"], ...]]:
        states = [hidden_states]
        for layer in self.layer:
            states.append(layer(states[-1], attention_mask)[0])
        return states[-1], tuple(states)
