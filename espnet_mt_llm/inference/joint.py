"""Decode clips with UME: who spoke when, separated signals and transcripts of the same speakers, from one pass."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Optional, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from espnet_mt_llm.common import Pathlike, UserError, at, is_number, progress
from espnet_mt_llm.datadir.audio import read_audio, write_audio
from espnet_mt_llm.datadir.maps import read_map
from espnet_mt_llm.inference.decode import RunConfig, check_positive, clip_batches
from espnet_mt_llm.inference.diarization import activity_to_segments
from espnet_mt_llm.models.ume import Heard, UMEModel
from espnet_mt_llm.text.serialisation import Order
from espnet_mt_llm.train.preprocess import as_samples

RANGE_DB = 40.0  # a separated signal counts as silent so far below its loudest frame
TOKEN_REACH = 0.3  # seconds that a token stands for before and after its frame


@dataclass(frozen=True)
class JointConfig(RunConfig):
    """What `conf/decode_ume.yaml` may say.

    Attributes:
        threshold, median: of diarization; the median is in frames, 1 for none.
        beam_size: of the search with the attention decoder; 1 reads CTC's best path.
        ctc_weight: of the search.
        write_audio: write ``separated/<clip>-<k>.flac``.
        write_activity: write ``activity.npz``, from which scoring can sweep threshold and median.
    """

    threshold: float = 0.5
    median: int = 11
    beam_size: int = 1
    ctc_weight: float = 0.3
    write_audio: bool = False
    write_activity: bool = False

    def check(self, where: Pathlike) -> None:
        """Check the values."""
        super().check(where)
        check_positive(self.median, "median", where)
        if self.median % 2 == 0:
            raise at(where, None, f"median: {self.median!r}", "an odd number of frames is expected, e.g. 11")
        for key in ("threshold", "ctc_weight"):
            value = getattr(self, key)
            if not is_number(value) or not 0 <= value <= 1:
                raise at(where, None, f"{key}: {value!r}", "a number between 0 and 1 is expected")
        check_positive(self.beam_size, "beam_size", where)
        for key in ("write_audio", "write_activity"):
            if not isinstance(getattr(self, key), bool):
                raise at(where, None, f"{key}: {getattr(self, key)!r}", "true or false is expected")


class Spoken(NamedTuple):
    """What was found in a clip; index k is the same speaker in all parts, None where there is no such head.

    Attributes:
        num_talkers: how many there are; their k come first.
        activity: probabilities ``(T, S)``.
        waves: ``(S, N)``.
        texts: S strings.
    """

    num_talkers: int
    activity: Optional[np.ndarray]
    waves: Optional[np.ndarray]
    texts: Optional[list[str]]


class JointDecoder:
    """A loaded ume model and its tokenizer.

    Args:
        model_dir: the training's output.
        config: how to decode.

    Raises:
        UserError: no such model, or one that gives nothing with this configuration.
    """

    def __init__(self, model_dir: Pathlike, config: JointConfig) -> None:
        from espnet_mt_llm.inference.model import load_model, task_class

        torch.set_num_threads(config.num_threads)
        torch.set_flush_denormal(True)
        begin = time.perf_counter()
        self.config = config
        self.model: UMEModel
        self.model, self.args, self.weights = load_model(model_dir, "ume", config.weights, config.device)
        if list(self.model.heads) == ["separation"] and not config.write_audio:
            raise UserError(f"{model_dir}: this model separates and does nothing else; set write_audio: true")
        self.tokenizer = task_class("ume").tokenizer(self.args)
        record = Path(model_dir) / "environment.json"
        self.training = json.loads(record.read_text(encoding="utf-8")) if record.exists() else None
        self.search = self._search()
        self.load_seconds = time.perf_counter() - begin

    @torch.no_grad()
    def __call__(self, clips: Sequence[np.ndarray]) -> list[Spoken]:
        """Return what is spoken in each of ``clips``, samples ``(N,)`` each."""
        lengths = torch.tensor([len(c) for c in clips])
        speech = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(c) for c in clips], batch_first=True)
        device = self.config.device
        tasks = [t for t in self.model.heads if t != "separation" or self.config.write_audio]
        heard = self.model.hear(speech.to(device), lengths.to(device), tasks)
        texts = None if heard.log_probs is None else self._texts(heard)
        counts = None if heard.counts is None else (heard.counts.argmax(1) + 1).tolist()
        return [self._clip(heard, texts, counts, i, len(clip)) for i, clip in enumerate(clips)]

    def _texts(self, heard: Heard) -> list[list[str]]:
        if self.search is None:
            ids = self.model.greedy(heard)
        else:
            ids = [[self._best(stream[:length]) for stream in clip]
                   for clip, length in zip(heard.streams, heard.lengths.tolist())]
        return [[self.tokenizer.decode(stream) for stream in clip] for clip in ids]

    def _search(self) -> Optional[Any]:
        """Build ESPnet's beam search over the shared decoder and CTC; None for the best path of CTC."""
        head = self.model.heads["recognition"] if "recognition" in self.model.heads else None
        if head is None or head.decoder is None or self.config.beam_size == 1:
            return None
        from espnet.nets.batch_beam_search import BatchBeamSearch
        from espnet.nets.scorers.ctc import CTCPrefixScorer

        # At most as many as can begin a text; with the blank among them, ESPnet's scores of CTC go wrong.
        beam_size = min(self.config.beam_size, head.vocabulary_size - 1)
        return BatchBeamSearch(
            beam_size=beam_size, vocab_size=head.vocabulary_size, sos=head.sos, eos=head.eos,
            token_list=self.model.tokens, pre_beam_score_key="full" if self.config.ctc_weight < 1 else None,
            weights={"decoder": 1 - self.config.ctc_weight, "ctc": self.config.ctc_weight},
            scorers={"decoder": head.decoder, "ctc": CTCPrefixScorer(head.ctc, head.eos)},
        ).to(self.config.device).eval()

    def _best(self, stream: torch.Tensor) -> list[int]:
        """Return the best hypothesis for a stream ``(T, D)``, without start and end."""
        head = self.model.heads["recognition"]
        self.search.set_hyp_primer([head.sos, *head.prefix])
        found = self.search(stream)
        return [i for i in found[0].yseq[1 + len(head.prefix):].tolist() if i != head.eos] if found else []

    def _clip(self, heard: Heard, texts: Optional[list[list[str]]], counts: Optional[list[int]], i: int,
              num_samples: int) -> Spoken:
        """Bring what the heads say about clip ``i`` into one order of speakers."""
        length = int(heard.lengths[i])
        activity = None if heard.activity is None else heard.activity[i, :length].sigmoid().cpu().numpy()
        waves = None if heard.waves is None else heard.waves[i, :, :num_samples].cpu().numpy()
        tokens = None if heard.log_probs is None else 1 - heard.log_probs[i, :, :length, 0].exp().cpu().numpy().T
        said = None if texts is None else texts[i]
        views = {"activity": activity,
                 "waves": None if waves is None else envelopes(waves, length, round(self.args.frame_shift *
                                                                                    self.args.rate)),
                 "texts": None if tokens is None else spread(tokens, round(TOKEN_REACH / self.args.frame_shift))}
        # The first head there is gives the order, by the mass of activity: who is hardly there comes last.
        first = next(name for name, view in views.items() if view is not None)
        order = np.argsort(-views[first].sum(axis=0), kind="stable")
        orders = {name: order if name == first else match(views[first][:, order], view)
                  for name, view in views.items() if view is not None}
        count = self.model.max_talkers if counts is None else counts[i]
        return Spoken(count, None if activity is None else activity[:, orders["activity"]],
                      None if waves is None else waves[orders["waves"]],
                      None if said is None else [said[k] for k in orders["texts"]])


def envelopes(waves: np.ndarray, num_frames: int, hop: int) -> np.ndarray:
    """Return how loud signals ``(S, N)`` are in each frame ``(T, S)``: 1 at their loudest, 0 at 40 dB below.

    A signal's loudest counts as 40 dB below the loudest of all signals at least, so that a silent one has 0.
    """
    padded = np.zeros((len(waves), num_frames * hop), dtype=np.float64)
    size = min(waves.shape[1], padded.shape[1])
    padded[:, :size] = waves[:, :size]
    power = np.square(padded).reshape(len(waves), num_frames, hop).mean(axis=2)
    level = 10 * np.log10(power + 1e-12)
    peaks = np.maximum(level.max(axis=1, keepdims=True), level.max() - RANGE_DB)
    return np.clip(1 + (level - peaks) / RANGE_DB, 0, 1).T


def spread(tokens: np.ndarray, reach: int) -> np.ndarray:
    """Return the running maximum of ``(T, S)`` over ``reach`` frames on both sides: CTC's tokens are spikes."""
    from scipy.ndimage import maximum_filter1d

    return maximum_filter1d(tokens, 2 * reach + 1, axis=0, mode="constant")


def match(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return which column of ``second`` ``(T, S)`` goes with each column of ``first``, by their covariance in time."""
    a, b = first - first.mean(axis=0), second - second.mean(axis=0)
    scale = np.maximum(np.linalg.norm(a, axis=0)[:, None] * np.linalg.norm(b, axis=0), 1e-9)
    return linear_sum_assignment(-(a.T @ b) / scale)[1]


def decode_joint(model_dir: Pathlike, data_dir: Pathlike, out_dir: Pathlike, config: JointConfig, job: int = 1,
                 num_jobs: int = 1) -> tuple[list[dict], dict[str, int], dict[str, Any], dict[str, Any]]:
    """Decode the clips of one job; separated signals are written to ``<out_dir>/separated``.

    Returns:
        SegLST segments with words, one a speaker, with times where there is diarization; talker counts; the record of
        the run; and ``rttm`` (segments of diarization) and ``activity`` (clip → ``(T, S)``) where there are.
    """
    data_dir, out_dir = Path(data_dir), Path(out_dir)
    wav = read_map(data_dir / "wav.scp")
    run = JointDecoder(model_dir, config)
    segments: list[dict] = []
    rttm: list[dict] = []
    activity: dict[str, np.ndarray] = {}
    counts, audio_seconds, wall = {}, 0.0, 0.0
    for clips in progress(clip_batches(data_dir, config.batch_size, job, num_jobs), f"decoding {data_dir.name}"):
        begin = time.perf_counter()
        samples = [as_samples(read_audio(wav[clip])[::-1], run.args.rate, clip) for clip in clips]
        heard = run(samples)
        wall += time.perf_counter() - begin
        for clip, spoken, speech in zip(clips, heard, samples):
            audio_seconds += len(speech) / run.args.rate
            counts[clip] = spoken.num_talkers
            times = spans_of(spoken, run.args.frame_shift, config, len(speech) / run.args.rate)
            rttm += [{"session_id": clip, "speaker": str(k), "start_time": s, "end_time": e, "words": ""}
                     for k, s, e in times]
            segments += said(clip, spoken, times)
            if spoken.activity is not None and config.write_activity:
                activity[clip] = spoken.activity[:, : spoken.num_talkers].astype(np.float16)
            if spoken.waves is not None:
                for k, wave in enumerate(spoken.waves[: spoken.num_talkers]):
                    write_audio(out_dir / "separated" / f"{clip}-{k}.flac", audible(wave, speech), run.args.rate)
    order = Order(**(run.args.order_conf or {}))
    heads = list(run.model.heads)
    record = {
        "audio_seconds": round(audio_seconds, 3), "wall_seconds": round(wall, 3),
        "load_seconds": round(run.load_seconds, 3), "batch_size": config.batch_size, "device": config.device,
        "num_threads": config.num_threads, "count": "head" if run.model.count_head is not None
        else f"forced:{run.model.max_talkers}", "weights": str(run.weights), "heads": heads,
        "parameters": sum(p.numel() for p in run.model.parameters()), "profile": run.args.profile,
        "training": run.training, "sot_order": order.order, "tie_rule": order.describe(),
        "frame_shift": run.args.frame_shift, "threshold": config.threshold, "median": config.median,
        "layer_weights": run.model.layer_weights(), "write_audio": config.write_audio,
    }
    return segments, counts, record, {"rttm": rttm if "diarization" in heads else None, "activity": activity}


def spans_of(spoken: Spoken, frame_shift: float, config: JointConfig, duration: float
             ) -> list[tuple[int, float, float]]:
    """Return (speaker, start, end) of diarization, in seconds."""
    if spoken.activity is None:
        return []
    active = spoken.activity[:, : spoken.num_talkers]
    return activity_to_segments(active, frame_shift, config.threshold, config.median, duration)


def said(clip: str, spoken: Spoken, times: Sequence[tuple[int, float, float]]) -> list[dict]:
    """Return one SegLST segment a speaker, from his first to his last activity."""
    segments = []
    for k, text in enumerate((spoken.texts or [])[: spoken.num_talkers]):
        segment = {"session_id": clip, "speaker": str(k), "words": text}
        mine = [(start, end) for speaker, start, end in times if speaker == k]
        if mine:
            segment |= {"start_time": round(mine[0][0], 3), "end_time": round(max(end for _, end in mine), 3)}
        segments.append(segment)
    return segments


def audible(wave: np.ndarray, mixture: np.ndarray) -> np.ndarray:
    """Scale a separated signal ``(N,)``, whose level SI-SDR leaves open, to its share of the mixture ``(N,)``."""
    energy = float(np.dot(wave, wave))
    scaled = wave * (float(np.dot(wave, mixture)) / energy) if energy > 0 else wave
    peak = float(np.abs(scaled).max(initial=0.0))
    return (scaled * (0.99 / peak) if peak > 0.99 else scaled).astype(np.float32)
