"""The task ``speaker``: a small extractor, trained where the released ones are not there."""

import argparse
import logging
from typing import Any, Callable

import numpy as np
import torch
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
from espnet2.torch_utils.device_funcs import to_device
from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_mt_llm.common import UserError
from espnet_mt_llm.encoders.registry import SPEAKER, speaker_encoder
from espnet_mt_llm.models.speaker import SpeakerModel
from espnet_mt_llm.scoring.verification import equal_error_rate, pair_scores
from espnet_mt_llm.tasks.base import MultiTalkerTask, build
from espnet_mt_llm.train.batches import MixedBatches
from espnet_mt_llm.train.collate import pad_batch
from espnet_mt_llm.train.espnet import IteratorOptions
from espnet_mt_llm.train.stretches import CropBatch, StretchDataset, chosen_evenly, read_pool
from espnet_mt_llm.train.trainer import Trainer

# Seconds of a stretch that validation listens to, the longest that there are by default.
LONGEST = 10.0


class SpeakerTrainer(Trainer):
    """The trainer with a validation over all pairs of stretches: ``eer``, the equal error rate of cosine scores."""

    @classmethod
    @torch.no_grad()
    def validate_one_epoch(cls, model: torch.nn.Module, iterator: Any, reporter: Any, options: Any,
                           distributed_option: Any) -> None:
        """Register ``eer``."""
        model.eval()
        device = "cuda" if options.ngpu > 0 else "cpu"
        embeddings, speakers = [], []
        for _, batch in iterator:
            batch = to_device(batch, device)
            embeddings.append(model.encoder(batch["speech"], batch["speech_lengths"]).float().cpu().numpy())
            speakers += batch["speaker"][:, 0].tolist()
        try:
            eer = equal_error_rate(*pair_scores(np.concatenate(embeddings), speakers))
        except ValueError as e:
            raise UserError(f"validation: {e}; give a valid set with several stretches of a speaker") from None
        reporter.register({"eer": eer})
        reporter.next()


class SpeakerTask(MultiTalkerTask):
    """Arguments to :class:`~espnet_mt_llm.models.speaker.SpeakerModel`; data are the pools ``enrolment``."""

    trainer = SpeakerTrainer

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the extractor, the margin and the stretches."""
        super().add_task_arguments(parser)
        required = [name for name in parser.get_default("required") if name != "token_list"]
        parser.set_defaults(required=required, best_model_criterion=[["valid", "eer", "min"]], keep_nbest_models=[1])
        group = parser.add_argument_group(description="Speaker extractor")
        group.add_argument("--encoder", default="campplus", choices=SPEAKER)
        for name, what in (("encoder", "the extractor: its sizes, or a checkpoint to begin with"),
                           ("model", "the loss: margin, scale")):
            group.add_argument(f"--{name}_conf", action=NestedDictAction, default={}, help=f"arguments of {what}")
        group.add_argument("--crop", type=float, nargs=2, default=[2.0, 2.0],
                           help="seconds, shortest and longest: what is trained on; one length is drawn for a batch")
        group.add_argument("--talk_over", type=float, default=0.0,
                           help="share of what is trained on in which another speaker is heard for a while")
        group.add_argument("--valid_stretches", type=int, default=20,
                           help="at most so many of each speaker of the valid set; all pairs of them are scored")
        group.add_argument("--num_speakers", type=int, default=None,
                           help="classes of the training; the training set and speed_factors say it")

    @classmethod
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool) -> None:
        """Nothing: the dataset gives what is needed."""

    @classmethod
    def build_collate_fn(cls, args: argparse.Namespace, train: bool) -> Callable:
        """Crops of one length for training, whole stretches padded for validation."""
        low, high = args.crop
        if not 0.1 <= low <= high:
            raise UserError(f"crop: {low:g} to {high:g} s; expected 0.1 <= shortest <= longest")
        if not 0 <= args.talk_over <= 1:
            raise UserError(f"talk_over: {args.talk_over:g} is no share; expected 0 to 1")
        return CropBatch(round(low * args.rate), round(high * args.rate), args.talk_over) if train else pad_batch

    @classmethod
    def build_sequence_iter_factory(cls, args: argparse.Namespace, iter_options: IteratorOptions, mode: str
                                    ) -> AbsIterFactory:
        """Random batches of stretches for training; every speaker's first ones for validation."""
        if iter_options.distributed:
            raise UserError("the task speaker is for one process; train it on one GPU or without")
        train = iter_options.train
        pool = read_pool(args.train_dir if train else args.valid_dir)
        if train:
            dataset = StretchDataset(pool, args.rate, args.crop[1], args.crop[1], args.speed_factors, train=True)
            batches: Any = MixedBatches([str(n) for n in range(len(pool))], iter_options.batch_size)
        else:
            known = set(read_pool(args.train_dir).speakers) & set(pool.speakers)
            if known:
                logging.warning("%d of %d speakers to validate on are trained on; their error rate is too good",
                                len(known), len(pool.speakers))
            dataset = StretchDataset(pool, args.rate, LONGEST)
            numbers, size = chosen_evenly(pool, args.valid_stretches), iter_options.batch_size
            # Of like length side by side: little is padded.
            numbers.sort(key=lambda n: int(pool.end[int(n)] - pool.start[int(n)]))
            batches = [numbers[i : i + size] for i in range(0, len(numbers), size)]
        return SequenceIterFactory(
            dataset=dataset, batches=batches, seed=args.seed,
            num_iters_per_epoch=iter_options.num_iters_per_epoch if train else None, shuffle=train,
            num_workers=args.num_workers, collate_fn=iter_options.collate_fn, pin_memory=args.ngpu > 0)

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> SpeakerModel:
        """Build the model; sizes and the number of classes go into ``args``, so that config.yaml is complete."""
        encoder = build(speaker_encoder(args.encoder), args.encoder_conf, "encoder_conf", rate=args.rate, frozen=False)
        args.encoder_conf = encoder.saved_conf(args.encoder_conf)
        if args.num_speakers is None:
            args.num_speakers = len(read_pool(args.train_dir).speakers) * max(1, len(set(args.speed_factors)))
        return build(SpeakerModel, args.model_conf, "model_conf", encoder, args.num_speakers)
