"""Rendering: a mixture is the sum of its parts, exactly; nothing clips; readers work in every kind of worker."""

import multiprocessing
import pickle

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.audio import read_audio, write_audio
from espnet_mt_llm.datadir.maps import read_map
from espnet_mt_llm.simulation.manifest import Mixture, Noise, Source
from espnet_mt_llm.simulation.mixtures import MixtureReader, SourceCache, Unreadable, fit, render, render_sum, resample, to_16_bit

RATE = 16000


def source_of(sources, index, **changes):
    u = sources.utterances[index]
    return Source(**{**dict(utt=u.utt, spk=u.spk, text=u.text, wav=sources.wav[u.rec], start=u.start, end=u.end,
                            offset=0.0, gain=1.0), **changes})


def mixture_of(parts, noise=None, scale=1.0, tail=200):
    length = max(round(s.offset * RATE) + s.num_samples(RATE) for s in parts) + tail
    return Mixture("m", RATE, length, tuple(parts), noise, scale=scale)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mixture_is_the_sum_of_its_parts(sources, noise_scp, rir_scp, data):
    rirs, noises = (sorted(read_map(scp).values()) for scp in (rir_scp, noise_scp))
    parts = [source_of(sources, data.draw(st.integers(0, 11)), offset=data.draw(st.integers(0, 300)) / 100,
                       gain=data.draw(st.floats(0.01, 3)), rir=data.draw(st.sampled_from([None, *rirs])))
             for _ in range(data.draw(st.integers(1, 4)))]
    noise = data.draw(st.none() | st.builds(Noise, st.sampled_from(noises), st.integers(0, 60).map(float),
                                            st.floats(0, 2), st.just(0.0)))
    mixture = mixture_of(parts, noise, data.draw(st.floats(0.1, 1)))
    cache = SourceCache()
    rendered = render(mixture, cache)
    total = np.sum([*rendered.sources, *([] if rendered.noise is None else [rendered.noise])], axis=0)
    assert np.array_equal(total, rendered.mixture)
    assert np.array_equal(rendered.mixture, render_sum(mixture, cache))
    assert (rendered.noise is None) == (noise is None)
    steps = rendered.mixture * 32768
    assert np.array_equal(steps, np.rint(steps)) and len(steps) == mixture.num_samples


def test_source_is_where_and_as_loud_as_the_manifest_says(sources):
    source = source_of(sources, 0, offset=0.25, gain=0.5)
    rendered = render(mixture_of([source]), SourceCache())
    samples, _ = read_audio(source.wav, source.start, source.end)
    begin = RATE // 4
    assert not rendered.mixture[:begin].any() and not rendered.mixture[begin + len(samples):].any()
    assert np.abs(rendered.mixture[begin:begin + len(samples)] - 0.5 * samples).max() <= 0.5 / 32768


def test_reverberation_keeps_the_onset(sources, rir_scp):
    source = source_of(sources, 0, offset=0.25, rir=read_map(rir_scp)["room"])
    rendered = render(mixture_of([source]), SourceCache())
    begin = RATE // 4
    assert not rendered.mixture[:begin].any() and rendered.mixture[begin:begin + 80].any()
    assert rendered.mixture[begin + source.num_samples(RATE) + 100:].any()  # the tail goes on


def test_impulse_response_has_unit_energy_at_every_rate(rir_scp):
    for wav in read_map(rir_scp).values():
        response = SourceCache().impulse_response(wav, RATE)
        assert np.isclose(np.sum(response.astype(float) ** 2), 1, atol=1e-5) and np.argmax(np.abs(response)) == 0


def test_silence_is_no_impulse_response(tmp_path):
    write_audio(tmp_path / "none.wav", np.zeros(800, np.int16), RATE)
    with pytest.raises(Unreadable, match="none.wav: silent, so it is no impulse response"):
        SourceCache().impulse_response(str(tmp_path / "none.wav"), RATE)


def test_short_noise_is_repeated_and_of_a_long_one_the_stretch_is_taken(noise_scp):
    noises = read_map(noise_scp)
    short = SourceCache().noise(noises["short"], 0.1, 16000, RATE)
    whole, _ = read_audio(noises["short"])
    assert np.array_equal(short[:3200], to_16_bit(whole)[1600:4800]) and np.array_equal(short[4800:8000], short[:3200])
    cache = SourceCache()
    stretch = cache.noise(noises["long"], 30.0, 16000, RATE)
    assert np.array_equal(stretch, to_16_bit(read_audio(noises["long"], 30, 31)[0])) and cache._bytes == 0


@pytest.mark.parametrize("seconds", [0.3, 70])
def test_of_several_channels_the_first_one_is_taken(tmp_path, seconds):
    samples = np.random.default_rng(0).normal(0, 0.05, (round(seconds * RATE), 3))
    soundfile.write(tmp_path / "three.wav", samples, RATE)
    soundfile.write(tmp_path / "first.wav", samples[:, 0], RATE)
    three, first = str(tmp_path / "three.wav"), str(tmp_path / "first.wav")
    for take in (lambda wav: SourceCache().noise(wav, 0.1, 4000, RATE),
                 lambda wav: SourceCache().impulse_response(wav, RATE)):
        assert np.array_equal(take(three), take(first))


def test_sources_of_another_rate_are_resampled(tmp_path):
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)).astype(np.float32)
    write_audio(tmp_path / "a.wav", tone, 8000)
    source = Source("u", "s", "", str(tmp_path / "a.wav"), 0.1, 0.9, 0.0, 1.0)
    rendered = render_sum(Mixture("m", RATE, source.num_samples(RATE), (source,)), SourceCache())
    expected = 0.3 * np.sin(2 * np.pi * 440 * (np.arange(len(rendered)) / RATE + 0.1))
    assert len(rendered) == 12800 and np.abs(rendered - expected)[200:-200].max() < 0.01


def test_nothing_is_clipped_on_the_way(tmp_path):
    import soundfile

    loud = np.linspace(-1.5, 1.5, 1600, dtype=np.float32)  # a float file may go beyond full scale
    soundfile.write(tmp_path / "a.wav", loud, RATE, subtype="FLOAT")
    source = Source("u", "s", "", str(tmp_path / "a.wav"), 0.0, 0.1, 0.0, 0.5)
    rendered = render_sum(Mixture("m", RATE, 1600, (source,)), SourceCache())
    assert np.abs(rendered - 0.5 * loud).max() <= 1 / 32768  # rounded once when read, once when scaled


def test_a_mixture_may_be_shorter_than_its_sources(sources):
    parts = (source_of(sources, 0), source_of(sources, 4, offset=0.2), source_of(sources, 8, offset=0.9))
    whole = render_sum(mixture_of(parts), SourceCache())
    cut = render(Mixture("m", RATE, 8000, parts), SourceCache())
    assert np.array_equal(cut.mixture, whole[:8000]) and not cut.sources[2].any()


def test_cache_is_bounded_and_keeps_what_was_used_last(sources):
    everything = [source_of(sources, i) for i in range(12)]
    sizes = [2 * s.num_samples(RATE) for s in everything]
    cache = SourceCache(max_bytes=sizes[0] + sizes[1] + 10)
    for source in everything[:2] + everything[:1] + everything[2:]:
        first = cache.source(source, RATE)
        assert cache.source(source, RATE) is first and first.dtype == np.int16
        assert cache._bytes == sum(a.nbytes for a in cache._arrays.values()) <= cache.max_bytes + max(sizes)
    assert len(pickle.dumps(cache)) < 300


@pytest.mark.parametrize("changes, words", [
    ({"wav": "nowhere.wav"}, "nowhere.wav: no such audio file"),
    ({"end": 99.0}, "is not inside the recording"),
])
def test_unreadable_source_is_named(sources, changes, words):
    mixture = mixture_of([source_of(sources, 0)])
    bad = Mixture("m", RATE, mixture.num_samples, (source_of(sources, 0, **changes),))
    with pytest.raises(UserError, match=words):
        render_sum(bad, SourceCache())


@pytest.fixture(scope="module")
def manifest(sources, tmp_path_factory):
    path = tmp_path_factory.mktemp("manifest") / "mixtures.jsonl"
    mixtures = [mixture_of([source_of(sources, i), source_of(sources, i + 4, offset=0.3)]) for i in range(6)]
    path.write_text("".join(m.to_json().replace('"m"', f'"m{i}"', 1) + "\n" for i, m in enumerate(mixtures)))
    return path


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_reader_in_workers(manifest, method):
    reader = MixtureReader(manifest)
    expected = {key: reader[key] for key in reader}  # opens the file and fills the cache before the workers start
    with multiprocessing.get_context(method).Pool(2) as pool:
        results = pool.map(reader.__getitem__, list(reader))
    for (rate, samples), found in zip(expected.values(), results):
        assert found[0] == rate == RATE and np.array_equal(found[1], samples) and samples.dtype == np.float32


def test_reader_in_a_training_data_loader(manifest, module):
    data = module("torch.utils.data")
    reader = MixtureReader(manifest)
    loader = data.DataLoader(list(reader), batch_size=None, num_workers=2, collate_fn=reader.__getitem__)
    assert all(np.array_equal(a[1], reader[key][1]) for a, key in zip(loader, reader))


def test_fit_and_resample():
    assert len(fit(np.ones(5), 7)) == 7 and len(fit(np.ones(5), 3)) == 3
    same = np.ones(5, dtype=np.float32)
    assert resample(same, 8000, 8000) is same
    assert len(resample(same, 22050, 16000)) == 4
