import math

from jaxtyping import Float
from torch import Tensor, nn

from minibert.config import BertConfig


class BertSelfAttention(nn.Module):
    "Multi-head self-attention, without its output projection."

    def __init__(self, config: BertConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def split(self, x: Float[Tensor, "batch seq hidden"]) -> Float[Tensor, "batch heads seq head_dim"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch seq hidden"],
        attention_mask: Float[Tensor, "batch 1 1 seq"],  # added to the scores
    ) -> Float[Tensor, "batch seq hidden"]:
        query = self.split(self.query(hidden_states))
        key = self.split(self.key(hidden_states))
        value = self.split(self.value(hidden_states))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        probs = self.dropout((scores + attention_mask).softmax(dim=-1))
        return (probs @ value).transpose(1, 2).flatten(2)
