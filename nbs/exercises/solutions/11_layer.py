from jaxtyping import Float
from torch import Tensor, nn

from minibert.attention import BertAttention
from minibert.config import BertConfig


class BertLayer(nn.Module):
    "Attention between the tokens, then a feed-forward block for each token alone."

    def __init__(self, config: BertConfig):
        super().__init__()
        hidden, wide = config.hidden_size, config.intermediate_size
        norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.attention = BertAttention(config)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(hidden, wide)})
        self.output = nn.ModuleDict({"dense": nn.Linear(wide, hidden), "LayerNorm": norm})
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch seq hidden"],
        attention_mask: Float[Tensor, "batch 1 1 seq"],  # added to the scores
    ) -> Float[Tensor, "batch seq hidden"]:
        attended = self.attention(hidden_states, attention_mask)[0]
        widened = nn.functional.gelu(self.intermediate.dense(attended))
        narrowed = self.dropout(self.output.dense(widened))
        return self.output.LayerNorm(narrowed + attended)
