"""The task ``ume``: one encoder for diarization, separation and recognition."""

import argparse
from typing import Callable, Optional

from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_mt_llm.common import UserError, nearest
from espnet_mt_llm.encoders.registry import SPEECH, speech_encoder
from espnet_mt_llm.models.ume import TASKS, UMEModel
from espnet_mt_llm.nets.diarization import DiarizationHead
from espnet_mt_llm.nets.recognition import RecognitionHead
from espnet_mt_llm.nets.rwse import ResidualWeightedSum
from espnet_mt_llm.nets.separation import ConvTasNet
from espnet_mt_llm.nets.talker_count import TalkerCountHead
from espnet_mt_llm.tasks.base import MultiTalkerTask, build
from espnet_mt_llm.text.serialisation import Order
from espnet_mt_llm.train.preprocess import JointTargets


class UMETask(MultiTalkerTask):
    """Arguments to :class:`~espnet_mt_llm.models.ume.UMEModel`."""

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the pieces of the model: shared encoder, weighted sums, heads, losses."""
        super().add_task_arguments(parser)
        group = parser.add_argument_group(description="UME")
        group.add_argument("--encoder", default="e_branchformer", choices=SPEECH)
        group.add_argument("--heads", nargs="+", default=list(TASKS), help=f"of {', '.join(TASKS)}")
        for name, what in (
            ("encoder", "the shared encoder"), ("rwse", "the residual weighted sums: shared, layer_norm, last_only"),
            ("diarization", "the diarization head"), ("separation", "the separation head"),
            ("recognition", "the recognition head"), ("count_head", "the talker-count head"),
            ("model", "weights of the losses, variable_speakers, tie_permutation, si_sdr_clip, separation_warmup"),
        ):
            group.add_argument(f"--{name}_conf", action=NestedDictAction, default={}, help=f"arguments of {what}")
        group.add_argument("--frame_shift", type=float, default=None, help="seconds; the encoder says it")

    @classmethod
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool) -> Callable:
        """Per-talker token ids, frame labels and clean signals."""
        order = build(Order, args.order_conf, "order_conf")
        return JointTargets(cls.tokenizer(args), args.profile, args.max_talkers, order, args.rate, args.speed_factors,
                            train, frame_shift=args.frame_shift)

    @classmethod
    def optional_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Names of the data that a clip may have."""
        return ("sources",)

    @classmethod
    def needs_sources(cls, args: argparse.Namespace) -> bool:
        """Say whether the clean signals of mixtures are read."""
        return "separation" in args.heads

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> UMEModel:
        """Build the model; token list, frame shift and the encoder's own configuration go into ``args``."""
        if isinstance(args.heads, str):
            raise UserError(f"heads: a list is expected, e.g. [{args.heads}]")
        for name in args.heads:
            if name not in TASKS:
                raise UserError(f"heads: unknown head '{name}'; {nearest(name, TASKS)}")
        tokens = cls.tokenizer(args).tokens
        args.token_list = tokens
        encoder = build(speech_encoder(args.encoder), args.encoder_conf, "encoder_conf", rate=args.rate)
        args.frame_shift = encoder.frame_shift
        # A trained model is loaded without the checkpoint that its encoder began from.
        args.encoder_conf = encoder.saved_conf(args.encoder_conf or {})
        size, speakers = encoder.output_size, args.max_talkers
        heads = {}
        for name in (task for task in TASKS if task in args.heads):
            if name == "diarization":
                heads[name] = build(DiarizationHead, args.diarization_conf, "diarization_conf", size, speakers)
            elif name == "separation":
                heads[name] = build(ConvTasNet, args.separation_conf, "separation_conf", size, speakers)
            else:
                heads[name] = build(RecognitionHead, args.recognition_conf, "recognition_conf", size, speakers,
                                    len(tokens))
        rwse = build(ResidualWeightedSum, args.rwse_conf, "rwse_conf", encoder.num_layers, list(heads), size=size)
        count_head: Optional[TalkerCountHead] = None
        if (args.model_conf or {}).get("variable_speakers"):
            count_head = build(TalkerCountHead, args.count_head_conf, "count_head_conf", size, speakers)
        return build(UMEModel, args.model_conf, "model_conf", encoder, rwse, heads, tokens, speakers,
                     count_head=count_head)
