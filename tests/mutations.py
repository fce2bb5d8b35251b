"""Plausible bugs, each of which some test must notice.

    python tests/mutations.py [WORDS…]

Applies each of `MUTATIONS` (or those that hold one of the words) to a copy of the repository, one by one, runs the tests that
are named beside it, and says which nothing noticed; exit code 1 if there are any. More: docs/development.md.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Mutation(NamedTuple):
    """What stands in which file of the package, what to put there instead, and the tests that should notice."""

    file: str
    old: str
    new: str
    tests: str


OBJECTIVES, DROPOUT = "tests/training/test_objectives.py", "tests/modeling/test_dropout.py"
TUNING = "experiments/fine_tuning.py"
STAGE, SEEDS = "tests/experiments/test_stage.py", "tests/experiments/test_seeds.py"
RUN, RUN_VOCABULARY = "tests/experiments/test_run.py", "tests/experiments/test_vocabulary.py"
PROGRAM, AGAIN, STOP = (
    "tests/experiments/test_program.py",
    "tests/experiments/test_again.py",
    "tests/experiments/test_stop.py",
)
OPTIMIZER, EVALUATORS = "tests/training/test_optimizer.py", "tests/training/test_evaluators.py"
LAYERS = "tests/modeling/test_models.py tests/interop/test_huggingface.py tests/training/test_checkpoint.py"
REPORT, TF1 = "tests/reports/test_report.py", "tests/interop/test_tf1_checkpoint.py"
FOLDERS = "tests/interop/test_huggingface.py tests/interop/test_untrusted_folders.py"
VOCABULARY, PIPELINE = "tests/tokenization/test_tokenization.py", "tests/data/test_pipeline.py"
MIXTURE, PACKING = "tests/data/test_mixture.py", "tests/data/test_packing.py"
MASKING, TAGGING = "tests/data/test_masking.py", "tests/tasks/test_token_classification.py"
RETRIEVAL, RETRIEVER = "tests/tasks/test_retrieval.py", "tests/training/test_retrieval.py"
RETRIEVAL_STAGE, WHOLE = "tests/experiments/test_retrieval.py", "tests/experiments/test_xtreme.py"
ANSWERS = "tests/tasks/test_question_answering.py"
ATTENTION, LOSS = "tests/ops/test_attention.py", "tests/ops/test_vocabulary_loss.py"
GRADIENTS, PRODUCTS = "tests/training/test_gradients.py", "tests/ops/test_products.py"
PRECISION, MESH = "tests/training/test_precision.py", "tests/experiments/test_mesh_runs.py"
LOGGING, SWEEP = "tests/experiments/test_logging.py", "tests/tools/test_launch_sweep.py"
WRITERS = "tests/training/test_writers.py"
LATE = "deterministic=deterministic"
MUTATIONS = [
    # What an objective sees.
    Mutation("training/objectives.py", 'segment_ids=batch["segment_ids"],', "", OBJECTIVES),
    Mutation("training/objectives.py", 'position_ids=batch["position_ids"],\n', "", OBJECTIVES),
    Mutation("training/objectives.py", 'token_type_ids=batch["token_type_ids"],\n', "", OBJECTIVES),
    Mutation("training/objectives.py", 'attention_mask=batch["attention_mask"],\n', "", OBJECTIVES),
    Mutation("training/objectives.py", 'batch["attention_mask"], output_hidden', "output_hidden", OBJECTIVES),
    Mutation("training/objectives.py", "True} if key is None else", "True} if True else", OBJECTIVES),
    # Dropout.
    Mutation("modeling/encoder.py", '"dropout": True}', '"dropout": False}', DROPOUT),
    Mutation("modeling/encoder.py", f'name="attention_LayerNorm")(x + dropout(attended, {LATE}))',
             'name="attention_LayerNorm")(x + attended)', DROPOUT),
    Mutation("modeling/encoder.py", f'name="crossattention_LayerNorm")(x + dropout(attended, {LATE}))',
             'name="crossattention_LayerNorm")(x + attended)', DROPOUT),
    Mutation("modeling/encoder.py", f"x + dropout(y, {LATE})", "x + y", DROPOUT),
    Mutation("modeling/attention.py", "partial(self.dropout, deterministic=False) if drops else None", "None", DROPOUT),
    Mutation("modeling/attention.py", "probabilities if dropout is None else dropout(probabilities)", "probabilities", DROPOUT),
    Mutation("ops/attention.py", "weights if dropout is None else dropout(weights)", "weights", ATTENTION),
    Mutation("modeling/embeddings.py", f"Dropout(c.hidden_dropout_prob)(x, {LATE})", "x", DROPOUT),
    # From a config to what a process trains on.
    Mutation("experiments/pretraining.py", "rows=local_rows", "rows=None", STAGE),
    Mutation("experiments/fine_tuning.py", "rows=sharding.local_rows(batch_size, mesh).tolist()", "rows=None", STAGE),
    Mutation("experiments/pretraining.py", "seed=config.seed, rows", "seed=0, rows", STAGE),
    Mutation("experiments/fine_tuning.py", "seed=config.seed, rows", "seed=0, rows", STAGE),
    Mutation("data/pipeline.py", "default_rng([seed, row])", "default_rng([seed, 0])", PIPELINE),
    Mutation("data/pipeline.py", "index=row,\n", "index=0,\n", PIPELINE),
    Mutation("data/pipeline.py", "start=float(starts[row])", "start=0.5", PIPELINE),
    Mutation("data/mixture.py", "self._all_drawn = int(self._drawn.sum())", "self._all_drawn = 0", PIPELINE),
    Mutation("data/shuffled.py", "[*self._seed, epoch]", "self._seed", "tests/data/test_shuffled.py"),
    Mutation("sharding.py", "int(numbers.searchsorted(start))", "start", "tests/test_sharding.py"),
    Mutation("training/program.py", "seed=self.seed", "seed=0", SEEDS),
    Mutation("training/program.py", "self.tx, self.seed", "self.tx, 0", SEEDS),
    Mutation("training/program.py", "accumulation=self.optimizer.accumulation", "accumulation=1", SEEDS),
    Mutation("training/train_step.py", "jax.random.fold_in(key, index)", "key", SEEDS),
    Mutation("training/train_step.py", "if parts(COPIES) == 1:", "if True:", GRADIENTS),
    Mutation("training/train_step.py", "jnp.where(healthy, a, b), new", "jnp.where(state.healthy, a, b), new",
             "tests/training/test_train_step.py"),
    Mutation("modeling/layers.py", "jax.lax.axis_index(own) * rows", "0", GRADIENTS),
    Mutation("sharding.py", "(*_axes(sharding.spec[1]), *_axes(sharding.spec[0]))", "sharding.spec[1]",
             "tests/test_sharding.py"),
    Mutation("ops/embedding.py", " * here[:, :, None]", "", "tests/ops/test_embedding.py"),
    Mutation("ops/embedding.py", "split_axis=0, concat_axis=2", "split_axis=2, concat_axis=0", "tests/ops/test_embedding.py"),
    Mutation("training/train_step.py", "jax.random.fold_in(jax.random.key(seed), state.step)", "jax.random.key(seed)", SEEDS),
    Mutation("training/optimizer.py", '"lamb": lambda: adam', '"lamb": lambda: optax.identity()', OPTIMIZER),
    Mutation("training/optimizer.py", "optax.chain(optax.scale_by_factored_rms(), _by_layer(optax.clip_by_block_rms(1.0)))",
             "optax.scale_by_factored_rms()", OPTIMIZER),
    # Ten layers and more.
    Mutation("modeling/encoder.py", '[encoder_params[f"layer_{i}"] for i in range(len(encoder_params) - len(rest))]',
             "[encoder_params[name] for name in sorted(set(encoder_params) - set(rest))]", LAYERS),
    Mutation("training/checkpoint.py", "sorted(numbers)[", "sorted(numbers, key=str)[", LAYERS),
    Mutation("interop/conversion.py", "for i in range(shape[0])]", "for i in sorted(range(shape[0]), key=str)]", LAYERS),
    # What a result is computed from.
    Mutation("training/evaluators.py", "value[place]", "value[-1]", EVALUATORS),
    Mutation("training/evaluators.py", "one.outputs[index] for index in range(len(one.rows))",
             "value for value in one.outputs.values()", EVALUATORS),
    Mutation("training/evaluators.py", "len(one.outputs) == len(one.rows)", "True", EVALUATORS),
    Mutation("training/evaluators.py", "predict(chosen, needed[-1])", "predict(chosen, needed[0])", EVALUATORS),
    Mutation("training/evaluators.py", "range(0, len(rest), self._batch_size)", "range(0, 0, self._batch_size)", EVALUATORS),
    Mutation("training/search.py", "jnp.sort(jax.lax.top_k(grouped.max(2), k)[1], axis=1)",
             "jax.lax.top_k(grouped.max(2), k)[1]", "tests/training/test_search.py"),
    Mutation("training/search.py", "((0, 0), filling), constant_values=-jnp.inf", "((0, 0), filling)",
             "tests/training/test_search.py"),
    Mutation("training/search.py", "(filling, (0, 0)), constant_values=-jnp.inf", "(filling, (0, 0))",
             "tests/training/test_search.py"),
    Mutation("training/search.py", "if candidate_count is not None:", "if False:", "tests/training/test_search.py"),
    Mutation("training/search.py", "if query_count is not None:", "if False:", "tests/training/test_search.py"),
    Mutation("training/search.py", "None if count == len(rows) else count", "None", "tests/training/test_search.py"),
    Mutation("training/evaluators.py", "if len(waiting[length]) == self._batch_size:", "if False:", EVALUATORS),
    Mutation("training/evaluators.py", "if len(row[\"input_ids\"]) <= length", "", EVALUATORS),
    Mutation("experiments/pretraining.py", "data.eval_split)", "data.train_split)", STAGE),
    Mutation(TUNING, "split := task_config.dev_split", "split := task_config.test_split", STAGE),
    Mutation(TUNING, "config.test_split, config.max_eval_examples", "config.dev_split, config.max_eval_examples", STAGE),
    Mutation(TUNING, "split, task_config.max_eval_examples", "split, 0", STAGE),
    Mutation(TUNING, "config.test_split, config.max_eval_examples", "config.test_split, 0", STAGE),
    Mutation(TUNING, "task_config.train_split, task_config.max_train_examples", "task_config.train_split, 0", STAGE),
    Mutation(TUNING, "epochs * (len(train_rows) // batch_size)", "epochs * len(train_rows)", STAGE),
    Mutation(TUNING, "config.training.epochs * (len(train_rows) // batch_size)", "len(train_rows) // batch_size", STAGE),
    Mutation(TUNING, "(len(train_rows) // batch_size)", "-(-len(train_rows) // batch_size)", STAGE),
    Mutation("reports/report.py", 'if language != labelled]', "]", REPORT),
    Mutation("reports/report.py", "/ len(others)", "", REPORT),
    Mutation("reports/report.py", "results[comparison.pretrained], results[comparison.scratch]",
             "results[comparison.scratch], results[comparison.pretrained]", REPORT),
    Mutation("reports/report.py", 'for column in COLUMNS\n        ]', "for column in COLUMNS[::-1]\n        ]", REPORT),
    Mutation("training/hooks.py", "/ (seconds * timed)", "/ seconds", SEEDS),
    Mutation("training/hooks.py", "            self._counted_tokens = self.feed.tokens\n", "", SEEDS),
    Mutation("training/hooks.py", "self._window, self._counted_tokens = {}, [], self.feed.tokens",
             "self._window, self._counted_tokens = {}, [], 0", SEEDS),
    Mutation("training/objectives.py", 'sharding.mesh_axes("batch", "vocab", "embed")',
             '(("data", "fsdp"), "tensor", None)', PROGRAM),
    Mutation("training/hooks.py", "self.stopwatch.elapsed() - self._called", "self.stopwatch.elapsed()", LOGGING),
    Mutation("training/hooks.py", "100 * values['time/mfu']", "100 / values['time/mfu']", LOGGING),
    Mutation("tools/launch_sweep.py", "SIGINT, lambda *_: stop.set()", "SIGINT, signal.default_int_handler", SWEEP),
    Mutation("tools/launch_sweep.py", "SIGTERM, lambda *_: stop.set()", "SIGTERM, signal.default_int_handler", SWEEP),
    Mutation("training/hooks.py", '"step %d, held out: %s", step, shown', '"step %d", step', LOGGING),
    Mutation("training/checkpoint.py", ", overwrite=True", "", "tests/training/test_checkpoint.py"),
    Mutation("tasks/datasets.py", "config.data_dir or None", "None", "tests/tasks/test_datasets.py"),
    Mutation("training/hlo.py", "read += _bytes", "read = _bytes", "tests/training/test_hlo.py"),
    Mutation("training/objectives.py", "z_loss, split\n", "z_loss\n", PROGRAM),
    Mutation("training/feed.py", "_count_tokens(rows) / self._share", "_count_tokens(rows) * self._share",
             "tests/training/test_feed.py"),
    Mutation("training/objectives.py", "weights.sum(1), 1.0)", "weights.sum(1), 2.0)", OBJECTIVES),
    Mutation("tasks/datasets.py", "if len(sides) > 1 else []", "if sides else []", "tests/tasks/test_datasets.py"),
    Mutation("tasks/datasets.py", "_open_tfds(config, language, split, 0)", "_open_tfds(config, language, '', 0)",
             "tests/tasks/test_datasets.py"),
    Mutation("tasks/question_answering.py", '[Answer("", nothing), *ranked]', '[Answer("", 0.0), *ranked]', ANSWERS),
    Mutation("tasks/question_answering.py", "if values else 0.0", "", ANSWERS),
    Mutation("training/checkpoint.py", "len(numbers) - count", "len(numbers) + count",
             "tests/training/test_checkpoint.py"),
    Mutation("training/hlo.py", "runs * trips", "runs", "tests/training/test_hlo.py"),
    Mutation("training/hlo.py", '(2 if kind == "all-reduce" else 1)', "2", "tests/training/test_hlo.py"),
    Mutation("training/flops.py", 'params["length"] * sum(inside)', "sum(inside)", "tests/training/test_flops.py"),
    Mutation("training/objectives.py", ".argmax(-1)", ".argmin(-1)", PROGRAM),
    Mutation("training/program.py", "rows, length, slots = training.batch_size, data.seq_length",
             "rows, length, slots = training.batch_size, 2 * data.seq_length", PROGRAM),
    Mutation("training/program.py", "model(model_config, execution=execution, ", "model(model_config, ", PROGRAM),
    Mutation("training/program.py", "RemBertForMaskedLM(model_config, execution)", "RemBertForMaskedLM(model_config)",
             PROGRAM),
    Mutation("training/program.py", "frozen(self.optimizer, params)", "jax.tree.map(lambda _: False, params)", PROGRAM),
    Mutation("experiments/run.py", " or _outdated(config, folder):", ":", AGAIN),
    Mutation("experiments/run.py", "or trained or", "or", AGAIN),
    Mutation("experiments/run.py", "checkpoint.find(source)) != came_from", "checkpoint.find(source)) == came_from", AGAIN),
    Mutation("experiments/run.py", "if not (several and stage.task):", "if not several:", AGAIN),
    Mutation("experiments/run.py", 'store.manifest().get("run", manifest["run"])', 'manifest["run"]', STOP),
    Mutation("training/hooks.py", "            self._save.save(step, state)\n", "            pass\n", STOP),
    Mutation("training/hooks.py", "value > best", "value >= best", RUN),
    # Files.
    Mutation("interop/names.py", '"bert/encoder/layer_{i}/attention/self/query"',
             '"bert/encoder/layer_{i}/attention/self/value"', TF1),
    Mutation("interop/tf1_checkpoint.py", "num_attention_heads=hidden // HEAD_DIM", "num_attention_heads=hidden // 32", TF1),
    Mutation("interop/tf1_checkpoint.py", "num_attention_heads=hidden // HEAD_DIM", "num_attention_heads=1", TF1),
    Mutation("interop/conversion.py", "(stored[::-1] if piece.transposed else stored) != shape",
             "sorted(stored) != sorted(shape)", FOLDERS),
    Mutation("modeling/generation.py", "jax.random.fold_in(rng, state.count)", "rng", "tests/modeling/test_decoding.py"),
    # What may be seen, and how attention and the loss are computed.
    Mutation("ops/products.py", "einsum(letters, a, b, preferred_element_type=jnp.float32)", "einsum(letters, a, b)",
             ATTENTION),
    Mutation("ops/products.py", "narrow = cotangent.astype(a.dtype)", "narrow = cotangent", PRECISION),
    Mutation("ops/attention.py", "mask = self.keys[:, None, None, :]", "mask = self.keys[:, None, None, :] | True", ATTENTION),
    Mutation("ops/attention.py", "jnp.where(visible.keys, of_queries, -1)", "of_queries", ATTENTION),
    Mutation("ops/attention.py", "CausalMask(shape) if visible.causal else", "CausalMask(shape) if False else", ATTENTION),
    Mutation("ops/attention.py", "query.shape[-1] ** -0.5, query.dtype", "1.0, query.dtype", ATTENTION),
    Mutation("ops/attention.py", "PartitionSpec(split[0])", "PartitionSpec()", ATTENTION),
    Mutation("ops/attention.py", "if dropout:", "if False:", ATTENTION),
    Mutation("ops/vocabulary_loss.py", "narrow = by_logits.astype(table.dtype)", "narrow = by_logits", PRECISION),
    Mutation("ops/vocabulary_loss.py", "+ bias[None, :].astype(jnp.float32)", "", LOSS),
    Mutation("ops/vocabulary_loss.py", "is_label * tile.weights[:, None]", "is_label", LOSS),
    Mutation("ops/vocabulary_loss.py", "1.0 + 2.0 * z_loss * normaliser", "1.0 + z_loss * normaliser", LOSS),
    Mutation("ops/vocabulary_loss.py", "largest = jax.lax.pmax(largest, axis)", "pass", LOSS),
    Mutation("ops/vocabulary_loss.py", "target = jax.lax.psum(target, axis)", "target = target", LOSS),
    Mutation("ops/vocabulary_loss.py", "of_features = jax.lax.psum(of_features, split.vocabulary)", "pass", LOSS),
    Mutation("ops/vocabulary_loss.py", "constant_values=jnp.finfo(jnp.float32).min", "constant_values=0.0", LOSS),
    Mutation("experiments/stages.py", "sharding.check_heads(model.num_attention_heads, mesh)", "pass", MESH),
    # Vocabulary and ids.
    Mutation("tokenization/vocabulary.py", 'model_type="unigram",', 'model_type="unigram", normalization_rule_name="identity",',
             VOCABULARY),
    Mutation("tokenization/vocabulary.py", "user_defined_symbols=list(user_defined_symbols)", "user_defined_symbols=[]",
             VOCABULARY),
    Mutation("experiments/vocabulary.py", "config.data.alpha)", "1.0)", RUN_VOCABULARY),
    Mutation("experiments/vocabulary.py", "user_defined_symbols=config.tokenizer.user_defined_symbols,", "", RUN_VOCABULARY),
    Mutation("experiments/vocabulary.py", "character_coverage=config.tokenizer.character_coverage,", "", RUN_VOCABULARY),
    Mutation("experiments/vocabulary.py", "total, config.seed)", "total, 0)", RUN_VOCABULARY),
    Mutation("experiments/architecture.py", '"bos_token_id": tokenizer.cls_token_id', '"bos_token_id": tokenizer.sep_token_id',
             RUN_VOCABULARY),
    Mutation("experiments/architecture.py", '"eos_token_id": tokenizer.sep_token_id', '"eos_token_id": tokenizer.cls_token_id',
             RUN_VOCABULARY),
    Mutation("experiments/architecture.py", '"pad_token_id": tokenizer.pad_token_id', '"pad_token_id": 0', RUN_VOCABULARY),
    Mutation("tasks/base.py", '"input_ids": self.tokenizer.pad_token_id', '"input_ids": 0',
             "tests/tasks/test_sequence_classification.py"),
    Mutation("tasks/base.py", 'side="right"', 'side="left"', "tests/tasks/test_base.py"),
    Mutation("tasks/token_classification.py", "+ len(pieces) > room", "+ len(pieces) >= room", TAGGING),
    Mutation("tasks/token_classification.py", "self._word_pieces(word)[:room]", "self._word_pieces(word)", TAGGING),
    Mutation("tasks/token_classification.py", "if label != IGNORED_LABEL\n", "\n", TAGGING),
    Mutation("tasks/question_answering.py", "inside = span is not None and span[0] in window and span[1] in window",
             "inside = span is not None and span[0] in window", ANSWERS),
    Mutation("tasks/question_answering.py", "length <= self.options.max_answer_length", "True", ANSWERS),
    Mutation("tasks/question_answering.py", "[first : first + len(window)]", "[first:]", ANSWERS),
    Mutation("tasks/question_answering.py", "max(score, best.get(text, -np.inf))", "score", ANSWERS),
    Mutation("tasks/question_answering.py", "nothing = min(nothing, float(", "nothing = max(0.0, float(", ANSWERS),
    Mutation("tasks/question_answering.py", "> self.options.null_threshold", "> 0.0", ANSWERS),
    Mutation("tasks/question_answering.py", "first < end and last > begin", "first <= end and last >= begin", ANSWERS),
    Mutation("tasks/question_answering.py", "-(-(context - room) // self.options.doc_stride)",
             "(context - room) // self.options.doc_stride", ANSWERS),
    Mutation("tasks/retrieval.py", "match.score >= threshold", "match.score > threshold", RETRIEVAL),
    Mutation("tasks/retrieval.py", "first.setdefault(example[field], number)", "first[number] = number", RETRIEVAL),
    Mutation("training/objectives.py", "weights = mask[:, :, None]", "weights = jnp.ones_like(mask)[:, :, None]", RETRIEVER),
    Mutation("training/objectives.py", "states[layer], batch", "states[-1], batch", RETRIEVER),
    Mutation("training/retrieval.py", "search.hold(vectors[:, place])", "search.hold(vectors[:, 0])", RETRIEVER),
    Mutation("training/retrieval.py", "kept[1][one.source]", "one.source", RETRIEVER),
    Mutation("training/retrieval.py", "layers[start : start + at_once]", "layers[start : start + 1]", RETRIEVER),
    Mutation("training/search.py", "held.first, self._seen", "0, self._seen", "tests/training/test_search.py"),
    Mutation("training/search.py", "self._seen += count", "self._seen += self._block", "tests/training/test_search.py"),
    Mutation("experiments/retrieval.py", "best = max(layers", "best = min(layers", RETRIEVAL_STAGE),
    Mutation("experiments/retrieval.py", "thresholds[best], f", "thresholds[layers[-1]], f", RETRIEVAL_STAGE),
    Mutation("experiments/xtreme.py", "if job.is_finished(folder):\n            logger", "if False:\n            logger",
             WHOLE),
    Mutation("experiments/xtreme.py", "stage in tasks or stage in trained", "True", WHOLE),
    Mutation("xtreme/prepare.py", '"translations": [record["id"]]', '"translations": ["0"]',
             "tests/tools/test_prepare_xtreme.py"),
    Mutation("data/synthetic_tasks.py", '(label == "contradiction")', '(label == "entailment")',
             "tests/data/test_synthetic_tasks.py"),
    Mutation("data/synthetic.py", "invented=1.0", "invented=0.5", "tests/data/test_synthetic.py"),
    Mutation("data/synthetic.py", "facts[int(which)][telling]", "facts[int(which)][0]", "tests/data/test_synthetic.py"),
    Mutation("tools/xtreme_run.py", "    _restart_with_huge_pages()\n", "", WHOLE),
    # Found by mutmut.
    Mutation("training/optimizer.py", "key=len, default=None", "default=None", OPTIMIZER),
    Mutation("training/evaluators.py", "predictions[lang], lang)", "predictions[lang], None)", EVALUATORS),
    Mutation("training/hooks.py", "len(self._window) % READ_EVERY == 0", "len(self._window) % READ_EVERY != 0", LOGGING),
    Mutation("tasks/question_answering.py", 'np.argsort(-logits, kind="stable")', "np.argsort(-logits)", ANSWERS),
    Mutation("tasks/question_answering.py", "(length >= 1)", "(length >= 2)", ANSWERS),
    Mutation("tasks/question_answering.py", "options.doc_stride > room", "options.doc_stride >= room", ANSWERS),
    Mutation("training/writers.py", "add_scalar(name, value, step)", "add_scalar(name, value, None)", WRITERS),
    Mutation("training/hooks.py",
             "        self.log.settle(step)\n        with self.log.stopwatch.paused():\n            metrics",
             "        with self.log.stopwatch.paused():\n            metrics", LOGGING),
    Mutation("training/hlo.py", '("to_apply",) if instruction', '("calls",) if instruction', "tests/training/test_hlo.py"),
    Mutation("training/hlo.py", "self.runs.get(name, 0) + runs", "runs", "tests/training/test_hlo.py"),
    Mutation("training/flops.py", "equation.invars[0].aval", "equation.invars[1].aval", "tests/training/test_flops.py"),
    Mutation("tasks/question_answering.py", "> self.options.null_threshold", ">= self.options.null_threshold", ANSWERS),
    Mutation("training/checkpoint.py", "cleanup_tmp_directories=True", "cleanup_tmp_directories=False",
             "tests/training/test_checkpoint.py"),
    Mutation("training/train_state.py", "return _draw(init, shardings)", "return _draw(init, None)", PROGRAM),
    Mutation("training/writers.py", "value if math.isfinite(value) else str(value)", "value", WRITERS),
    Mutation("training/hlo.py", "scheduled=scheduled)\n                continue", "scheduled=scheduled)\n                break",
             "tests/training/test_hlo.py"),
    Mutation("training/train_step.py", "objective(held, batch, key)", "objective(held, batch, None)",
             "tests/training/test_train_step.py"),
    Mutation("training/train_step.py", 'jnp.maximum(sums["weight"], 1.0)', 'jnp.maximum(sums["weight"], 2.0)',
             "tests/training/test_train_step.py"),
    Mutation("training/train_state.py", ", out_shardings=shardings, donate_argnums=0", ", donate_argnums=0", PROGRAM),
    Mutation("training/hooks.py", "self._window[good : good + 1]", "self._window[good : good + 2]", LOGGING),
    Mutation("training/hooks.py",
             "if due(self.every, step, self.log.program.total_steps):\n            self.save(",
             "if due(self.every, step, -1):\n            self.save(", LOGGING),
    Mutation("training/hooks.py", "if not due(self.every, step, self.log.program.total_steps)",
             "if not due(self.every, step, -1)", LOGGING),
    Mutation("training/checkpoint.py", '.get("run", ""), "step"', '.get("", ""), "step"', AGAIN),
    Mutation("training/checkpoint.py", 'bool(_steps(workdir / "checkpoints"))', "False", AGAIN),
    Mutation("experiments/vocabulary.py", "if own.is_file() and checkpoint.can_resume(workdir):", "if False:", RUN_VOCABULARY),
    Mutation("training/objectives.py", 'mesh_axes("batch", "vocab", "embed")', 'mesh_axes("batch", None, "embed")', PROGRAM),
    Mutation("training/program.py", "objectives.task(model, kind.loss)", "objectives.task(model)", PROGRAM),
    Mutation("training/train_state.py", "step=jnp.zeros((), jnp.int32)", "step=jnp.zeros(())", PROGRAM),
    Mutation("training/hlo.py", "read += _bytes(user.shape, everywhere=True)", "read += _bytes(user.shape)",
             "tests/training/test_hlo.py"),
    Mutation("training/objectives.py", "z_loss: float = 0.0", "z_loss: float = 1.0", OBJECTIVES),
    Mutation("training/objectives.py", "        **read,\n", "", OBJECTIVES),
    Mutation("training/program.py", "range(model_config.num_hidden_layers + 1)", "range(model_config.num_hidden_layers + 2)",
             PROGRAM),
    Mutation("training/search.py", "np.asarray(vectors, np.float32)", "np.asarray(vectors)", "tests/training/test_search.py"),
    Mutation("experiments/run.py", "stored != stage.labels", "False", "tests/experiments/test_prediction.py"),
    Mutation("training/checkpoint.py", "SMALLEST_SLICE = 2**20", "SMALLEST_SLICE = 0", "tests/training/test_checkpoint.py"),
    Mutation("ops/products.py", "axis=tuple(range(x.ndim - 1)), dtype=jnp.float32", "axis=tuple(range(x.ndim - 1))", PRODUCTS),
    Mutation("ops/products.py", "to_kernel = outer_products(x, cotangent,", "to_kernel = outer_products(x[:1], cotangent[:1],",
             PRODUCTS),
    Mutation("ops/products.py", "    return _affine(x, kernel, bias), (x", "    return affine(x, kernel, bias), (x", LAYERS),
    Mutation("tools/prepare_xtreme.py", "options.size, options.seed)", "options.size)", "tests/xtreme/test_artificial.py"),
    Mutation("training/checkpoint.py", "if task_head and fresh:", "if False:", "tests/experiments/test_prediction.py"),
    Mutation("training/checkpoint.py", "if task_head or not name.startswith(TASK_HEADS)", "if not name.startswith(TASK_HEADS)",
             "tests/experiments/test_prediction.py"),
    Mutation("data/pipeline.py", "constant_values=tokenizer.pad_token_id", "constant_values=0", PIPELINE),
    Mutation("data/pipeline.py", '"pad_id": tokenizer.pad_token_id', '"pad_id": 0', PIPELINE),
    Mutation("data/shuffled.py", "dataset.index + dataset.count *", "dataset.index +", "tests/data/test_shuffled.py"),
    Mutation("data/mixture.py", "dataset.index + dataset.count *", "dataset.index +", MIXTURE),
    Mutation("data/mixture.py", "self._drawn.copy()", "self._drawn", PIPELINE),
    Mutation("data/packing.py", '[dataset.shuffle_seed, self._groups]', "[dataset.shuffle_seed]", PACKING),
    Mutation("data/packing.py", 'return {**self._position(), "out": 0}', 'return {**self._start, "out": 0}', PACKING),
    Mutation("data/packing.py", 'self._documents.get_state(), self._placed - len(self._pieces)',
             "self._documents.get_state(), 0", PACKING),
    Mutation("data/pipeline.py", ".documents * config.synthetic.documents", ".documents", "tests/data/test_sources.py"),
    Mutation("data/masking.py", "kind < 0.9", "kind < 0.91", MASKING),
    Mutation("data/masking.py", "kind < 0.8", "kind < 0.79", MASKING),
]  # fmt: skip


def apply(mutation: Mutation, root: pathlib.Path) -> str:
    """Puts a mutation into a copy of the repository, and gives what was there."""
    path = root / "rembert_jax" / mutation.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        sys.exit(
            f"{mutation.file} holds {mutation.old!r} {text.count(mutation.old)} times, expected once; correct the list"
        )
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    return text


def is_noticed(mutation: Mutation, root: pathlib.Path) -> bool:
    """Whether one of its tests fails."""
    text = apply(mutation, root)
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", *mutation.tests.split()]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=1200)
    finally:
        (root / "rembert_jax" / mutation.file).write_text(text, encoding="utf-8")
    if done.returncode not in (0, 1):
        sys.exit(f"{mutation.tests}: pytest ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 1


def main() -> None:
    """Runs the command line."""
    words = sys.argv[1:]
    chosen = [m for m in MUTATIONS if not words or any(word in " ".join(m) for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder) / "copy"
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".git", "__pycache__", "runs", ".venv"))
        alive = []
        for mutation in chosen:
            noticed = is_noticed(mutation, root)
            print(
                "noticed" if noticed else "ALIVE  ",
                mutation.file,
                repr(mutation.old),
                "->",
                repr(mutation.new),
                flush=True,
            )
            alive += [] if noticed else [mutation]
    print(f"{len(chosen)} mutations, {len(alive)} alive")
    sys.exit(1 if alive else 0)


if __name__ == "__main__":
    main()
