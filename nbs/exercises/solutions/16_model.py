import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minibert.config import BertConfig


class Embeddings(nn.Module):
    def __init__(self, config: BertConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Float[Tensor, "batch seq hidden"]:
        positions = torch.arange(input_ids.shape[1])
        embeddings = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        embeddings = embeddings + self.position_embeddings(positions)
        return self.dropout(self.LayerNorm(embeddings))


class SelfAttention(nn.Module):
    def __init__(self, config: BertConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def split(self, x: Float[Tensor, "batch seq hidden"]) -> Float[Tensor, "batch heads seq head_dim"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Float[Tensor, "batch seq hidden"], mask: Tensor) -> Float[Tensor, "batch seq hidden"]:
        query, key, value = (self.split(project(x)) for project in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        probs = self.dropout((scores + mask).softmax(dim=-1))
        return (probs @ value).transpose(1, 2).flatten(2)


class AddAndNorm(nn.Module):
    "The end of both halves of a layer: project, add what came in, normalise."

    def __init__(self, config: BertConfig, columns: int):
        super().__init__()
        self.dense = nn.Linear(columns, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Float[Tensor, "batch seq columns"], residual: Tensor) -> Float[Tensor, "batch seq hidden"]:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class Attention(nn.Module):
    def __init__(self, config: BertConfig):
        super().__init__()
        self.self = SelfAttention(config)
        self.output = AddAndNorm(config, config.hidden_size)

    def forward(self, x: Float[Tensor, "batch seq hidden"], mask: Tensor) -> Float[Tensor, "batch seq hidden"]:
        return self.output(self.self(x, mask), x)


class Layer(nn.Module):
    def __init__(self, config: BertConfig):
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.intermediate_size)})
        self.output = AddAndNorm(config, config.intermediate_size)

    def forward(self, x: Float[Tensor, "batch seq hidden"], mask: Tensor) -> Float[Tensor, "batch seq hidden"]:
        attended = self.attention(x, mask)
        widened = nn.functional.gelu(self.intermediate.dense(attended))
        return self.output(widened, attended)


class BertModel(nn.Module):
    "BERT: embeddings, encoder and pooler."

    def __init__(self, config: BertConfig):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.hidden_size)})

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"],
        attention_mask: Int[Tensor, "batch seq"],  # 1 for visible, 0 for hidden
        token_type_ids: Int[Tensor, "batch seq"],  # the segment of each token
    ) -> tuple[Float[Tensor, "batch seq hidden"], Float[Tensor, "batch hidden"]]:
        x = self.embeddings(input_ids, token_type_ids)
        hidden = 1.0 - attention_mask[:, None, None, :].to(x.dtype)
        mask = hidden * torch.finfo(x.dtype).min
        for layer in self.encoder.layer:
            x = layer(x, mask)
        return x, self.pooler.dense(x[:, 0]).tanh()
