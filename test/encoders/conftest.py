"""What every speech encoder must do, checked alike for all."""

from typing import Callable

import pytest
import torch
import yaml

from espnet_mt_llm.common import UserError
from espnet_mt_llm.encoders.interface import SpeechEncoder

Make = Callable[..., SpeechEncoder]


class Contract:
    """Checks of the interface of :class:`SpeechEncoder`; ``make`` builds the encoder with more arguments."""

    @staticmethod
    def batch(encoder: SpeechEncoder, lengths: list[int]) -> list[int]:
        """A clip alone gives what it gives in a batch, whatever is behind its end; return the numbers of frames."""
        generator = torch.Generator().manual_seed(3)
        speech = torch.randn(len(lengths), max(lengths), generator=generator) * 0.1
        together, frames = encoder(speech, torch.tensor(lengths))
        assert together.shape == (encoder.num_layers, len(lengths), int(frames.max()), encoder.output_size)
        assert together.isfinite().all()
        for i, n in enumerate(lengths):
            alone, count = encoder(speech[i : i + 1, :n], torch.tensor([n]))
            assert count.tolist() == [frames[i]] and alone.size(2) == frames[i]
            torch.testing.assert_close(together[:, i, : frames[i]], alone[:, 0], atol=2e-5, rtol=1e-4)
        return frames.tolist()

    @staticmethod
    def layers(make: Make) -> None:
        """Layers are numbered from 1; -1 is the last; what is no layer is told."""
        speech, lengths = torch.randn(2, 9000), torch.tensor([9000, 7000])
        all_layers = make().eval()
        everything, _ = all_layers(speech, lengths)
        count = all_layers.num_layers
        assert len(everything) == count > 1
        for layers, indices in (([1, -1], [0, count - 1]), ([count], [count - 1]), ([1], [0]), ([-count], [0]),
                                ([2, 1], [1, 0])):
            encoder = make(layers=layers).eval()
            encoder.load_state_dict(all_layers.state_dict())
            hidden, _ = encoder(speech, lengths)
            assert encoder.num_layers == len(layers)
            torch.testing.assert_close(hidden, everything[indices])
        for layers in ([0], [count + 1], [-count - 1], [True], ["1"], [1.0]):
            with pytest.raises(UserError, match=f"layers: there is no layer '{layers[0]}'; layers are 1 to {count}"):
                make(layers=layers)
        for wrong in ([], 2, "all"):
            with pytest.raises(UserError, match="give a list, e.g."):
                make(layers=wrong)

    @staticmethod
    def freezing(make: Make, inputs: tuple[str, ...], block: str) -> None:
        """Nothing, the input layer and ``block``, or all stays as it is: no gradient, no dropout."""
        speech, lengths = torch.randn(2, 9000), torch.tensor([9000, 5000])
        for count, frozen in ((0, ()), (1, (*inputs, block)), (-1, ("",))):
            encoder = make(freeze_layers=count)
            encoder.eval()
            encoder.train()
            fixed = {name for name, p in encoder.named_parameters() if not p.requires_grad}
            expected = {name for name, _ in encoder.named_parameters() if name.startswith(frozen)} if frozen else set()
            # Sinusoids that a model keeps as weights are never trained.
            assert fixed - {"encoder.embed_positions.weight"} == expected - {"encoder.embed_positions.weight"}
            for name, module in encoder.named_modules():
                assert module.training is not bool(name and frozen and f"{name}.".startswith(frozen)), name
            hidden, _ = encoder(speech, lengths)
            assert hidden.requires_grad is (count >= 0)
            if count >= 0:
                hidden.square().sum().backward()
                assert {name for name, p in encoder.named_parameters() if p.grad is None} == fixed
            else:
                assert torch.equal(encoder(speech, lengths)[0], hidden)
        for wrong in (-2, encoder.num_layers + 1, True, "all"):
            with pytest.raises(UserError, match=f"freeze_layers {wrong} is not within -1 and {encoder.num_layers}"):
                make(freeze_layers=wrong)

    @staticmethod
    def saving(kind: type[SpeechEncoder], conf: dict) -> None:
        """A trained model's configuration and weights make the encoder again, without the checkpoint."""
        encoder = kind(**conf).eval()
        saved = yaml.safe_load(yaml.safe_dump(encoder.saved_conf(conf)))
        assert not {"checkpoint", "allow_missing"} & saved.keys()
        again = kind(**saved).eval()
        again.load_state_dict(encoder.state_dict())
        assert again.saved_conf(saved) == saved
        speech, lengths = torch.randn(1, 8000), torch.tensor([8000])
        assert torch.equal(again(speech, lengths)[0], encoder(speech, lengths)[0])

    @staticmethod
    def adapters(encoder: SpeechEncoder) -> None:
        """Adapters on the named layers of a frozen encoder train, and nothing else does."""
        from peft import LoraConfig, inject_adapter_in_model

        conf = LoraConfig(r=2, target_modules=list(encoder.lora_targets), lora_dropout=0.1)
        encoder = inject_adapter_in_model(conf, encoder).train()
        hidden, _ = encoder(torch.randn(1, 9000), torch.tensor([9000]))
        hidden.square().sum().backward()
        trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
        assert trained == {name for name, _ in encoder.named_parameters() if "lora_" in name} != set()
        for target in encoder.lora_targets:
            grads = [p.grad for name, p in encoder.named_parameters() if f".{target}.lora_B" in name]
            assert grads and all(g is not None and g.any() for g in grads), target


@pytest.fixture
def contract() -> Contract:
    """Return the checks that all speech encoders share."""
    return Contract()
