"""Speaker embeddings of the stretches of a pool: computed once, kept as Kaldi archives beside the pool."""

import fcntl
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from espnet_mt_llm.common import Pathlike, UserError, at, atomic_open, listed, progress
from espnet_mt_llm.datadir.maps import read_map, write_map
from espnet_mt_llm.datadir.stretches import Pool, Stretch, read_rows
from espnet_mt_llm.encoders.extractor import Extractor
from espnet_mt_llm.train.preprocess import change_speed
from espnet_mt_llm.train.stretches import find, read_stretch

log = logging.getLogger(__name__)

REPAIR = "correct the segments of the data dir, then run the stages clips and enroll again"
# Seconds: nothing shorter is enrolled; and what another speaker may say in a stretch before it is told.
SHORTEST = 1.0
FOREIGN = 0.1
# Root mean square of full scale, -70 dB: below there is nothing to hear.
SILENT = 10 ** (-70 / 20)
# Seconds of audio in a batch, padding counted.
BATCH = 60.0


def encoder_key(encoder: Extractor) -> str:
    """Return a name for the embeddings of an extractor: a digest of its sizes and weights."""
    digest = hashlib.blake2b(json.dumps(encoder.saved_conf({}), sort_keys=True).encode(), digest_size=6)
    for name, value in sorted(encoder.state_dict().items()):
        if value.is_floating_point():
            digest.update(name.encode() + value.detach().cpu().float().contiguous().numpy().tobytes())
    return f"{encoder.name}-{digest.hexdigest()}"


def stretch_embeddings(dump_dir: Pathlike, encoder: Extractor, key: str = "", device: str = "cpu", speed: float = 1.0
                       ) -> Mapping[str, np.ndarray]:
    """Return the embeddings ``(E,)`` of all stretches in ``<dump_dir>/enrolment``, by the ids of the stretches.

    They lie in ``<dump_dir>/enroll/<key>/enroll.{ark,scp}`` and are read when they are asked for. What is missing
    there, or older than the pool, is computed first; what jobs have computed (:func:`extract`) is taken over. Of
    several processes that ask at once, one computes and the others wait for it.

    Args:
        encoder: the extractor.
        key: name of the folder; default: :func:`encoder_key`.
        device: where to compute.
        speed: how much faster the stretches are played, which makes other voices of them; the folder says so, too.

    Raises:
        UserError: no pool, or stretches in it that are too short, silent or cannot be read, by their names.
    """
    import kaldiio

    folder = _folder(dump_dir, encoder, key, speed)
    path, pool = folder / "enroll.scp", Pool.read(Path(dump_dir) / "enrolment")
    names = [find(pool, n)[1].id for n in range(len(pool))]
    if not names:
        return {}
    if list(_current(path, dump_dir)) != names:
        with _alone(folder):
            entries = extract(dump_dir, encoder, key, device, speed=speed)
            # Not where another process has done so in the meantime.
            if list(_current(path, dump_dir)) != names:
                _write(path, ((name, kaldiio.load_mat(entry)) for name, entry in entries.items()))
                for part in folder.glob("enroll.*of*.*"):
                    part.unlink()
    return kaldiio.load_scp(str(path))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process, when no other one does; the lock of a process ends with it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: another process computes these embeddings; waiting for it", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def extract(dump_dir: Pathlike, encoder: Extractor, key: str = "", device: str = "cpu", job: int = 1,
            num_jobs: int = 1, speed: float = 1.0) -> dict[str, str]:
    """Compute what no job has computed yet of every ``num_jobs``-th stretch; return where each embedding lies.

    Args:
        dump_dir, encoder, key, device, speed: see :func:`stretch_embeddings`.
        job, num_jobs: which of the stretches, counted from 1.

    Returns:
        The id of a stretch → ``<archive>:<offset>``, of this job's stretches, in the pool's order.

    Raises:
        UserError: as :func:`stretch_embeddings`; what could be computed is kept.
    """
    path, folder = Path(dump_dir) / "enrolment", _folder(dump_dir, encoder, key, speed)
    pool = Pool.read(path)
    names = {find(pool, n)[1].id: n for n in range(job - 1, len(pool), num_jobs)}
    known: dict[str, str] = {}
    for part in folder.glob("enroll*.scp"):
        known |= _current(part, dump_dir)
    missing = [n for name, n in names.items() if name not in known]
    if missing:
        stretches = [find(pool, n)[1] for n in missing]
        _check_lengths(stretches, path)
        _tell_foreign(stretches, pool, Path(dump_dir))
        silent: list[str] = []
        part = folder / f"enroll.{job}of{num_jobs}.scp"
        # What this job did in an earlier run stays.
        before = [(name, entry) for name, entry in _current(part, dump_dir).items() if name in names]
        known |= _write(part, _with_earlier(before, _embed(stretches, encoder, device, silent, speed)))
        if silent:
            raise at(path, None, f"silent: {listed(silent, 5)}; nothing is enrolled from them", REPAIR)
    return {name: known[name] for name in names}


def speaker_vector(embeddings: Mapping[str, np.ndarray], stretches: Sequence[str]) -> np.ndarray:
    """Return the mean ``(E,)`` of the embeddings of stretches: what a speaker is registered with.

    Raises:
        UserError: no stretch, or one that has no embedding.
    """
    if not stretches:
        raise UserError("a speaker has no stretch to be registered from; leave the speaker out")
    for name in stretches:
        if name not in embeddings:
            raise UserError(f"the stretch '{name}' is not in the pool; make the lists again: ./run.sh --stage enroll "
                            "--stop_stage enroll --enrolment true")
    return np.mean([embeddings[name] for name in stretches], axis=0)


def _folder(dump_dir: Pathlike, encoder: Extractor, key: str, speed: float) -> Path:
    name = key or encoder_key(encoder)
    return Path(dump_dir) / "enroll" / (name if speed == 1 else f"{name}-{speed:g}")


def _current(scp: Path, dump_dir: Pathlike) -> dict[str, str]:
    """Read an scp file; one that is not there, or older than the pool, has nothing."""
    if not scp.is_file() or scp.stat().st_mtime < (Path(dump_dir) / "enrolment").stat().st_mtime:
        return {}
    return read_map(scp)


def _write(scp: Path, embeddings: Iterable[tuple[str, np.ndarray]]) -> dict[str, str]:
    """Write an archive and its scp file; return the lines of the latter."""
    from kaldiio.matio import write_array

    ark, lines = scp.with_suffix(".ark"), {}
    with atomic_open(ark, "wb") as f:
        for name, vector in embeddings:
            f.write(f"{name} ".encode())
            lines[name] = f"{ark}:{f.tell()}"
            write_array(f, vector)
        # Between the two files no old line may point into the new archive.
        scp.unlink(missing_ok=True)
    write_map(scp, lines)
    return lines


def _with_earlier(earlier: Sequence[tuple[str, str]], fresh: Iterable[tuple[str, np.ndarray]]
                  ) -> Iterator[tuple[str, np.ndarray]]:
    import kaldiio

    for name, entry in earlier:
        yield name, kaldiio.load_mat(entry)
    yield from fresh


def _embed(stretches: Sequence[Stretch], encoder: Extractor, device: str, silent: list[str], speed: float
           ) -> Iterator[tuple[str, np.ndarray]]:
    """Yield ids and embeddings ``(E,)``; the ids of silent stretches go to ``silent``."""
    training, home = encoder.training, next(encoder.parameters()).device
    encoder.eval().to(device)
    try:
        batch: list[tuple[str, torch.Tensor]] = []
        for stretch in progress(stretches, "embeddings"):
            samples = torch.from_numpy(change_speed(read_stretch(stretch, encoder.rate), speed))
            # A constant is no sound either, nor is what is no number, or infinite.
            if not samples.std(correction=0) >= SILENT:
                silent.append(stretch.id)
                continue
            longest = max([len(samples), *(len(other) for _, other in batch)])
            if batch and longest * (len(batch) + 1) > BATCH * encoder.rate:
                yield from _embed_batch(batch, encoder, device)
                batch = []
            batch.append((stretch.id, samples))
        if batch:
            yield from _embed_batch(batch, encoder, device)
    finally:
        encoder.train(training).to(home)


@torch.no_grad()
def _embed_batch(batch: Sequence[tuple[str, torch.Tensor]], encoder: Extractor, device: str
                 ) -> list[tuple[str, np.ndarray]]:
    lengths = torch.tensor([len(samples) for _, samples in batch], device=device)
    speech = torch.nn.utils.rnn.pad_sequence([samples for _, samples in batch], batch_first=True).to(device)
    found = encoder(speech, lengths).float().cpu().numpy()
    return [(name, vector) for (name, _), vector in zip(batch, found)]


def _check_lengths(stretches: Sequence[Stretch], path: Path) -> None:
    short = [f"{s.id} ({s.end - s.start:.2f} s)" for s in stretches if s.end - s.start < SHORTEST]
    if short:
        raise at(path, None, f"too short to enrol from, less than {SHORTEST:g} s: {listed(short, 5)}",
                 "take them out, or make the pool again with make_enrolment --min 2")


def _tell_foreign(stretches: Sequence[Stretch], pool: Pool, dump_dir: Path) -> None:
    """Warn of stretches in which another speaker talks, by the clips of the dump dir and by the pool itself."""
    talk = _talk(pool, dump_dir)
    found = []
    for s in stretches:
        seconds = sum(max(0.0, min(end, s.end) - max(start, s.start))
                      for spk, start, end in talk.get(s.session or s.rec, ()) if spk != s.spk)
        if seconds > FOREIGN:
            found.append(f"{s.id} ({seconds:.1f} s)")
    if found:
        log.warning("%s: by the annotation another speaker talks in: %s; they are enrolled all the same; %s",
                    dump_dir / "enrolment", listed(found, 5), REPAIR)


def _talk(pool: Pool, dump_dir: Path) -> dict[str, list[tuple[str, float, float]]]:
    """Return who talks when in each session, as far as clips and stretches say: (speaker, start, end) in seconds."""
    talk: dict[str, list[tuple[str, float, float]]] = {}
    for number in range(len(pool)):
        s = find(pool, number)[1]
        talk.setdefault(s.session or s.rec, []).append((s.spk, s.start, s.end))
    session_of = {**dict(zip(pool.recs, pool.sessions)), **{session: session for session in pool.sessions}}
    path = dump_dir / "supervision"
    for line, (clip, value) in read_rows(path, 2, "make the clips first (stage 3)") if path.is_file() else ():
        # A clip that is cut from a recording has its times in its id.
        times = re.match(r"(.+?)-(\d{7,})-\d{7,}", clip)
        session = session_of.get(times[1] if times else clip)
        if session is None:
            continue
        first = int(times[2]) / 100 if times else 0.0
        try:
            talk.setdefault(session, []).extend((s["spk"], first + s["start"], first + s["end"])
                                                for s in json.loads(value))
        except (ValueError, KeyError, TypeError):
            raise at(path, line, "not a list of segments", "make the clips again (stage 3)") from None
    return talk
