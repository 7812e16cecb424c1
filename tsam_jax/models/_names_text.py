"""Checkpoints of BERT and DistilBERT from Hugging Face transformers."""

from collections.abc import Collection
from typing import Any

from tsam_jax.models import bert, distilbert
from tsam_jax.models._config import flag, integer, layers, number, only
from tsam_jax.models._names import Format, Names, dense, embedding, norm


def bert_format(config: dict[str, Any], tensors: Collection[str]) -> Format:
    """Format of a BERT checkpoint, with options from its config.json."""
    only(config, "hidden_act", "gelu")
    only(config, "position_embedding_type", "absolute", default="absolute")
    flag(config, "is_decoder", required=False)
    flag(config, "add_cross_attention", required=False)
    depth = layers(config, "num_hidden_layers", tensors, r"(?:bert\.)?encoder\.layer\.(\d+)\.")
    options = {
        "vocabulary": integer(config, "vocab_size"),
        "max_length": integer(config, "max_position_embeddings"),
        "num_types": integer(config, "type_vocab_size", default=2),
        "width": integer(config, "hidden_size"),
        "depth": depth,
        "heads": integer(config, "num_attention_heads"),
        "hidden": integer(config, "intermediate_size"),
        "dropout": number(config, "hidden_dropout_prob", default=0.1),
        "attention_dropout": number(config, "attention_probs_dropout_prob", default=0.1),
        "head_dropout": number(config, "classifier_dropout", default=None),
        "epsilon": number(config, "layer_norm_eps", default=1e-12),
    }
    prefix = "bert." if any(name.startswith("bert.") for name in tensors) else ""
    ignored = rf"(cls|qa_outputs)\..*|{prefix}embeddings\.position_ids"
    return Format(bert.build, options, bert_names(depth, prefix), "head", "pooler", ignored)


def bert_names(depth: int, prefix: str = "bert.") -> Names:
    """Names of BERT's tensors."""
    names = dense("head", "classifier") | dense("pooler", f"{prefix}pooler.dense")
    names |= norm("embeddings/norm", f"{prefix}embeddings.LayerNorm")
    for ours, theirs in (("words", "word"), ("positions", "position"), ("types", "token_type")):
        names |= embedding(f"embeddings/{ours}", f"{prefix}embeddings.{theirs}_embeddings")
    for i in range(depth):
        ours, theirs = f"layers/{i}", f"{prefix}encoder.layer.{i}"
        for part in ("query", "key", "value"):
            names |= dense(f"{ours}/attention/{part}", f"{theirs}.attention.self.{part}")
        names |= dense(f"{ours}/attention/out", f"{theirs}.attention.output.dense")
        names |= norm(f"{ours}/attention_norm", f"{theirs}.attention.output.LayerNorm")
        names |= dense(f"{ours}/feed_forward/up", f"{theirs}.intermediate.dense")
        names |= dense(f"{ours}/feed_forward/down", f"{theirs}.output.dense")
        names |= norm(f"{ours}/norm", f"{theirs}.output.LayerNorm")
    return names


def distilbert_format(config: dict[str, Any], tensors: Collection[str]) -> Format:
    """Format of a DistilBERT checkpoint, with options from its config.json."""
    only(config, "activation", "gelu")
    depth = layers(config, "n_layers", tensors, r"(?:distilbert\.)?transformer\.layer\.(\d+)\.")
    options = {
        "vocabulary": integer(config, "vocab_size"),
        "max_length": integer(config, "max_position_embeddings"),
        "width": integer(config, "dim"),
        "depth": depth,
        "heads": integer(config, "n_heads"),
        "hidden": integer(config, "hidden_dim"),
        "dropout": number(config, "dropout", default=0.1),
        "attention_dropout": number(config, "attention_dropout", default=0.1),
        "head_dropout": number(config, "seq_classif_dropout", default=0.2),
    }
    prefix = "distilbert." if any(name.startswith("distilbert.") for name in tensors) else ""
    names = distilbert_names(depth, prefix)
    tasks = r"(vocab_transform|vocab_layer_norm|vocab_projector|qa_outputs)\..*"
    ignored = rf"{tasks}|{prefix}embeddings\.position_ids"
    return Format(distilbert.build, options, names, "head", "pre_classifier", ignored)


def distilbert_names(depth: int, prefix: str = "distilbert.") -> Names:
    """Names of DistilBERT's tensors."""
    names = dense("head", "classifier") | dense("pre_classifier", "pre_classifier")
    names |= norm("embeddings/norm", f"{prefix}embeddings.LayerNorm")
    for ours, theirs in (("words", "word"), ("positions", "position")):
        names |= embedding(f"embeddings/{ours}", f"{prefix}embeddings.{theirs}_embeddings")
    for i in range(depth):
        ours, theirs = f"layers/{i}", f"{prefix}transformer.layer.{i}"
        for part, letter in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out")):
            names |= dense(f"{ours}/attention/{part}", f"{theirs}.attention.{letter}_lin")
        names |= norm(f"{ours}/attention_norm", f"{theirs}.sa_layer_norm")
        names |= dense(f"{ours}/feed_forward/up", f"{theirs}.ffn.lin1")
        names |= dense(f"{ours}/feed_forward/down", f"{theirs}.ffn.lin2")
        names |= norm(f"{ours}/norm", f"{theirs}.output_layer_norm")
    return names
