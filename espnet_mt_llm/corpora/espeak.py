"""Speech from text by espeak-ng (of the ``espeakng-loader`` wheel); the same request gives the same samples."""

import ctypes
import functools
import hashlib
import os
import tempfile
from typing import Any

import numpy as np

from espnet_mt_llm.common import UserError

_SYNCHRONOUS, _UTF8 = 2, 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_LONGEST_PATH = 140  # espeak-ng keeps the path of its data in a short buffer


@functools.lru_cache(maxsize=1)
def _library() -> tuple[Any, int]:
    """Load and start espeak-ng once in this process; return the library and its rate in Hz."""
    try:
        import espeakng_loader
    except ImportError:
        raise UserError("espeak-ng is not installed; pip install espeakng-loader (tools/setup.sh does it)") from None
    data = _short(os.path.realpath(espeakng_loader.get_data_path()))
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), 0)
    if rate <= 0:
        raise UserError(f"{data}: espeak-ng does not start with it; pip install --force-reinstall espeakng-loader")
    return library, rate


def _short(path: str) -> str:
    """Return ``path``, or where it is too long for espeak-ng a link to it in the temporary directory.

    Raises:
        UserError: the temporary directory's path is too long, too, or holds something else under the link's name.
    """
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        return path
    name = f"espeak-ng-{os.getuid()}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"
    link = os.path.join(tempfile.gettempdir(), name)
    try:
        # Left in place: other processes of a preparation use the same one.
        os.symlink(path, link)
    except FileExistsError:
        pass
    if len(os.fsencode(link)) > _LONGEST_PATH or os.path.realpath(link) != os.path.realpath(path):
        raise UserError(f"{path}: too long a path for espeak-ng's data; make the environment in a shorter one")
    return link


def speak(voice: str, text: str, speed: int, pitch: int, pitch_range: int) -> tuple[np.ndarray, int]:
    """Synthesise ``text``.

    espeak-ng carries state from one utterance to the next (phases, filters, a random generator seeded by the clock).
    So each utterance is made in a forked child of a process that never speaks itself, with a fixed seed: the samples
    depend on the arguments alone, whatever was made before and in whichever process.

    Args:
        voice: e.g. ``en-us+f3`` or ``cmn+m1``.
        speed: words per minute; ``pitch`` and ``pitch_range``: 0 to 100.

    Returns:
        int16 samples (N,) and their rate in Hz.

    Raises:
        UserError: espeak-ng is not there, or does not know the voice.
    """
    library, rate = _library()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            with os.fdopen(writing, "wb") as f:
                f.write(_synthesise(library, voice, text, speed, pitch, pitch_range))
            code = 0
        finally:
            os._exit(code)  # the child must not run the exit handlers of its parent
    os.close(writing)
    with os.fdopen(reading, "rb") as f:
        samples = np.frombuffer(f.read(), dtype=np.int16)
    _, status = os.waitpid(child, 0)
    if status or len(samples) == 0:
        raise UserError(f"espeak-ng made no speech of '{text}' with the voice '{voice}'; does it know this voice?")
    return samples, rate


def _synthesise(library: Any, voice: str, text: str, speed: int, pitch: int, pitch_range: int) -> bytes:
    pieces: list[bytes] = []

    @_CALLBACK
    def collect(samples: Any, number: int, _events: Any) -> int:
        if samples and number > 0:
            pieces.append(ctypes.string_at(samples, 2 * number))
        return 0

    library.espeak_SetSynthCallback(collect)
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        return b""
    for parameter, value in ((_RATE, speed), (_VOLUME, 80), (_PITCH, pitch), (_RANGE, pitch_range)):
        library.espeak_SetParameter(parameter, value, 0)
    raw = text.encode() + b"\0"
    library.espeak_Synth(raw, ctypes.c_size_t(len(raw)), 0, 1, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    return b"".join(pieces)
