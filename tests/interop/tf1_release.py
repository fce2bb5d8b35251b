"""A TensorFlow 1 checkpoint like Google's release of RemBERT, small, with the variable names of the BERT family."""

import subprocess
import sys

import numpy as np

HIDDEN, LAYERS, VOCABULARY, INPUT, OUTPUT, FEED_FORWARD = 128, 2, 50, 12, 20, 24

WRITER = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import tensorflow as tf
tf1 = tf.compat.v1
for path in sys.argv[1:]:
    values = np.load(path + ".npz")
    with tf.Graph().as_default(), tf1.Session() as session:
        variables = [tf1.get_variable(name, initializer=values[name]) for name in values.files]
        session.run(tf1.global_variables_initializer())
        tf1.train.Saver(variables).save(session, path, write_meta_graph=False)
"""


def variables(output_embedding="output_embedding", transform=""):
    """Random values under the names of google-research/bert, with Adam slots; `transform` as BERT's head has it."""
    rng = np.random.default_rng(0)
    shapes = {
        "bert/embeddings/word_embeddings": (VOCABULARY, INPUT),
        "bert/embeddings/position_embeddings": (16, INPUT),
        "bert/embeddings/token_type_embeddings": (2, INPUT),
        "bert/encoder/embedding_hidden_mapping_in/kernel": (INPUT, HIDDEN),
        "bert/encoder/embedding_hidden_mapping_in/bias": (HIDDEN,),
        "bert/pooler/dense/kernel": (HIDDEN, HIDDEN),
        "bert/pooler/dense/bias": (HIDDEN,),
        f"cls/predictions/{transform}dense/kernel": (HIDDEN, OUTPUT),
        f"cls/predictions/{transform}dense/bias": (OUTPUT,),
        f"cls/predictions/{output_embedding}": (VOCABULARY, OUTPUT),
        "cls/predictions/output_bias": (VOCABULARY,),
    }
    norms = {"bert/embeddings/LayerNorm": INPUT, f"cls/predictions/{transform}LayerNorm": OUTPUT}
    for i in range(LAYERS):
        layer = f"bert/encoder/layer_{i}"
        widths = dict.fromkeys(("attention/self/query", "attention/self/key", "attention/self/value"), (HIDDEN, HIDDEN))
        widths |= {"attention/output/dense": (HIDDEN, HIDDEN), "intermediate/dense": (HIDDEN, FEED_FORWARD)}
        widths["output/dense"] = (FEED_FORWARD, HIDDEN)
        for name, (inputs, outputs) in widths.items():
            shapes |= {f"{layer}/{name}/kernel": (inputs, outputs), f"{layer}/{name}/bias": (outputs,)}
        norms |= {f"{layer}/attention/output/LayerNorm": HIDDEN, f"{layer}/output/LayerNorm": HIDDEN}
    for name, width in norms.items():
        shapes |= {f"{name}/gamma": (width,), f"{name}/beta": (width,)}
    values = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    slots = {f"{name}/{slot}": np.zeros_like(v) for name, v in values.items() for slot in ("adam_m", "adam_v")}
    return {**values, **slots, "global_step": np.int64(1_760_000)}


def write(checkpoints):
    """Writes {path prefix: variables} by TensorFlow's own Saver, in one process of its own."""
    for path, values in checkpoints.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(f"{path}.npz", **values)
    subprocess.run([sys.executable, "-c", WRITER, *map(str, checkpoints)], check=True, timeout=300)
