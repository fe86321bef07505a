"""The E-Branchformer encoder: shapes, and exact independence of padding."""

import torch

from espnet_mt_llm.encoders.e_branchformer import EBranchformer, EBranchformerStack


def small(**conf: object) -> EBranchformer:
    torch.manual_seed(0)
    return EBranchformer(output_size=16, num_blocks=3, attention_heads=2, mlp_size=32, kernel=7, **conf).eval()


def test_all_layers_come_out() -> None:
    encoder = small()
    hidden, lengths = encoder(torch.randn(2, 16000), torch.tensor([16000, 8000]))
    assert hidden.shape == (3, 2, 25, 16) == (encoder.num_layers, 2, 25, encoder.output_size)
    assert lengths.tolist() == [25, 12] and encoder.frame_shift == 0.04


def test_contract(contract) -> None:
    assert contract.batch(small(), [16000, 9000, 300]) == [25, 14, 1]
    contract.layers(small)
    contract.freezing(small, ("blocks.encoder.embed.",), "blocks.encoder.encoders.0.")
    contract.adapters(small(freeze_layers=-1, feed_forward_size=24))


def test_every_parameter_of_the_stack_learns() -> None:
    stack = EBranchformerStack(8, 16, num_blocks=2, attention_heads=2, mlp_size=32, kernel=3, feed_forward_size=24)
    stack(torch.randn(2, 9, 8), torch.tensor([9, 5]))[-1].square().sum().backward()
    assert [name for name, p in stack.named_parameters() if p.grad is None] == []
