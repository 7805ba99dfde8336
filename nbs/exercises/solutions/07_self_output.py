from jaxtyping import Float
from torch import Tensor, nn

from minibert.config import BertConfig


class BertSelfOutput(nn.Module):
    "Project what the heads gathered, add what came in, normalise."

    def __init__(self, config: BertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch seq hidden"],  # what the heads gathered
        input_tensor: Float[Tensor, "batch seq hidden"],  # what the attention was given
    ) -> Float[Tensor, "batch seq hidden"]:
        projected = self.dropout(self.dense(hidden_states))
        return self.LayerNorm(projected + input_tensor)
