"""BERT and MiniLM: encoders, whose tokens all see each other, with a norm behind each half layer.

Source: Devlin et al. 2018, arXiv:1810.04805; Reimers and Gurevych 2019, arXiv:1908.10084 (one
vector for a sentence).
"""

from collections.abc import Mapping

from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.hugging_face_config import COMMON_KEYS, activation_from_config
from yearling.models.sizes import read_context, read_heads, read_hidden, read_layers, read_width
from yearling.models.spec import (
    Attention,
    Embedding,
    LayerSpec,
    ModelSpec,
    Norm,
    Plain,
    Pooling,
    PostNorm,
)
from yearling.models.weights import Role, WeightName

__all__ = ["family", "names", "spec_from_config"]

_LAYER = "bert.encoder.layer.{layer}."
_NAMES: Mapping[Role, WeightName] = {
    "embedding": WeightName("bert.embeddings.word_embeddings"),
    "position_embedding": WeightName("bert.embeddings.position_embeddings"),
    "token_type_embedding": WeightName("bert.embeddings.token_type_embeddings"),
    "embedding_norm": WeightName("bert.embeddings.LayerNorm"),
    "query": WeightName(f"{_LAYER}attention.self.query"),
    "key": WeightName(f"{_LAYER}attention.self.key"),
    "value": WeightName(f"{_LAYER}attention.self.value"),
    "output": WeightName(f"{_LAYER}attention.output.dense"),
    "mixer_norm": WeightName(f"{_LAYER}attention.output.LayerNorm"),
    "up": WeightName(f"{_LAYER}intermediate.dense"),
    "down": WeightName(f"{_LAYER}output.dense"),
    "mlp_norm": WeightName(f"{_LAYER}output.LayerNorm"),
}
_CONFIG_KEYS = COMMON_KEYS | {
    *("attention_probs_dropout_prob", "classifier_dropout", "gradient_checkpointing"),
    *("hidden_act", "hidden_dropout_prob", "hidden_size", "initializer_range"),
    *("intermediate_size", "layer_norm_eps", "max_position_embeddings", "num_attention_heads"),
    *("num_hidden_layers", "position_embedding_type", "tie_word_embeddings", "type_vocab_size"),
    "vocab_size",
}
# Heads of pre-training, which a sentence vector does not need.
_IGNORED = (
    *("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"),
    *("cls.predictions.bias", "cls.predictions.decoder.bias", "cls.predictions.decoder.weight"),
    *("cls.predictions.transform.dense.weight", "cls.predictions.transform.dense.bias"),
    *("cls.predictions.transform.LayerNorm.weight", "cls.predictions.transform.LayerNorm.bias"),
    *("cls.seq_relationship.weight", "cls.seq_relationship.bias"),
)


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight."""
    return _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json of model type `bert`; vectors are means of the last layer."""
    config.refuse_unknown(_CONFIG_KEYS)
    if config.text("position_embedding_type", "absolute") != "absolute":
        raise config.error("position_embedding_type", "is not computed; only absolute is")
    width = read_width(config, "hidden_size")
    heads = read_heads(config, "num_attention_heads")
    context = read_context(config, "max_position_embeddings", 512)
    norm = Norm("layer", config.number("layer_norm_eps", 1e-12, above=0), has_bias=True)
    with config.checked():
        attention = Attention(
            heads,
            heads,
            width // heads,
            mask="bidirectional",
            has_qkv_bias=True,
            has_output_bias=True,
        )
    mlp = Plain(
        read_hidden(config, "intermediate_size"),
        activation_from_config(config, "hidden_act", "gelu"),
    )
    types = config.integer("type_vocab_size", 2, minimum=1, maximum=65_536)
    return ModelSpec(
        family="bert",
        vocabulary=config.integer("vocab_size", minimum=1),
        width=width,
        context=context,
        embedding=Embedding(positions=context, token_types=types, norm=norm),
        layers=(LayerSpec(attention, mlp, PostNorm(norm, norm)),)
        * read_layers(config, "num_hidden_layers"),
        final_norm=None,
        head=Pooling(),
    )


family = families.register(
    Family(
        model_types=("bert",),
        spec_from_config=spec_from_config,
        names=names,
        prefixes=("bert.",),
        ignored=_IGNORED,
    ),
    __name__,
)
