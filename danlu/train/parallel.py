"""How a network is trained by several processes: copies whose gradients are averaged (DDP), or shards of it (FSDP2).

What is wrapped is the task with the model, so that a task that calls the model in its own way is trained alike. Before
a network is sharded, and in every checkpoint, it is whole: a checkpoint knows nothing of ranks.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from danlu.core.errors import InputError
from danlu.tasks.classification import Batch, Classification
from danlu.tasks.preprocess import PictureModel
from danlu.train.distributed import World
from danlu.train.lookahead import Lookahead
from danlu.train.scale import AtScale
from danlu.train.settings import TrainConfig

if TYPE_CHECKING:
    from danlu.train.loop import Training

__all__ = ["Learner", "TaskModule", "buffers", "check_parallel", "distribute", "full", "rank_state"]

# What DDP calls the wish to synchronise buffers in every forward pass; renamed in torch 2.14.
_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(nn.parallel.DistributedDataParallel).parameters
)
# Their steps need the norm of a whole layer, of which a rank of FSDP holds a shard.
_WHOLE_LAYERS = ("lars", "lamb", "muon")


class TaskModule(nn.Module):
    """A task with its model as one module: a batch -> the task's figures."""

    def __init__(self, task: Classification, model: PictureModel) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Batch, scale: int | None = None) -> dict[str, Tensor]:
        """Return the figures of ``batch``, its pictures resized to ``scale`` px; ``loss`` is differentiated."""
        return self.task.loss(self.model if scale is None else AtScale(self.model, scale), batch, None)


def check_parallel(config: TrainConfig, size: int, device: str, *, begins: bool = False) -> None:
    """Refuse settings that so many processes cannot train with; what only lacks an effect, where a run begins.

    Raises:
        InputError: a batch that does not divide, or what a sharded network or this device cannot do.
    """
    if size == 1:
        if config.sync_batch_norm and begins:
            what = "sync_batch_norm: there is one process, whose batch norm sees every picture of its batch already"
            raise InputError(what, where="settings", mend="leave it out, or start several by torchrun")
        return
    each = size * config.repeats
    if config.batch_size % each:
        lower, upper = config.batch_size // each * each, -(-config.batch_size // each) * each
        raise InputError(
            f"batch_size = {config.batch_size} does not divide among {size} ranks",
            where="torchrun",
            mend=f"give --set batch_size={lower or upper} or {upper}: it is the batch of all ranks together",
        )
    if config.accumulate != "auto" and config.accumulate > config.batch_size // size:
        what = f"accumulate = {config.accumulate} is more parts than the {config.batch_size // size} pictures of a rank"
        raise InputError(what, where="torchrun")
    if config.sync_batch_norm and device != "cuda":
        raise InputError(
            f"sync_batch_norm on {device}: torch has it for CUDA only",
            where="settings",
            mend="leave it out: batch norm then sees the pictures of its rank",
        )
    if config.parallel == "fsdp":
        if config.precision == "fp16":
            # Each rank sees the overflow of its own shards only.
            raise InputError(
                "parallel = fsdp does not scale losses", where="settings", mend="give --set precision=bf16"
            )
        if config.optimizer.name in _WHOLE_LAYERS:
            what = f"optimizer {config.optimizer.name} measures whole layers, of which a rank of fsdp holds a shard"
            raise InputError(what, where="settings", mend="give --set parallel=ddp, or another optimizer")
        if config.transfer != type(config.transfer)(partial=config.transfer.partial):
            what = "parallel = fsdp does not freeze stages or give them rates of their own"
            raise InputError(what, where="settings", mend="give --set parallel=ddp")


class Learner:
    """The task with the network, wrapped for training by several processes.

    Args:
        task: gives the loss.
        model: this rank's copy; sharded in place by ``fsdp``.
        world: the processes.
        kind: ``ddp`` or ``fsdp``.
        device: of this rank.
    """

    def __init__(
        self, task: Classification, model: PictureModel, world: World, kind: str, device: torch.device
    ) -> None:
        self.kind, self.device, self.world = kind, device, world
        self.module: nn.Module = TaskModule(task, model)
        self.wrapped: nn.Module = self.module
        if kind == "fsdp":
            self._shard(model.network)
        else:
            self.wrap()

    def wrap(self) -> None:
        """Wrap the copies for DDP; again wherever other parameters learn than before."""
        if self.kind == "ddp":
            ids = [self.device.index] if self.device.type == "cuda" else None
            # The running statistics of batch norm are those of rank 0: `spread` gives them to the others when they
            # are needed, instead of DDP before every step.
            options: dict[str, Any] = {"device_ids": ids, _BUFFERS: False}
            self.wrapped = nn.parallel.DistributedDataParallel(self.module, **options)

    def _shard(self, network: nn.Module) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.world.size,))
        for unit in _units(network):
            fully_shard(unit, mesh=mesh)
        fully_shard(self.module, mesh=mesh)
        self.module.to(self.device)  # buffers; the shards are there already

    def loss(self, batch: Batch, scale: int | None = None) -> dict[str, Tensor]:
        """Return the figures of this rank's part of a batch; a backward pass of ``loss`` averages the gradients.

        Args:
            batch: the part.
            scale: height and width its pictures are resized to, the same on all ranks; None: they are not.
        """
        figures: dict[str, Tensor] = self.wrapped(batch, scale)
        return figures

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        """Return the figures of a batch without a backward pass; ``fsdp`` needs all ranks to do so together."""
        figures: dict[str, Tensor] = self.module(batch)
        return figures

    @contextlib.contextmanager
    def part(self, last: bool) -> Iterator[None]:
        """Run one of a step's parts; only the last one exchanges gradients."""
        if self.kind == "fsdp":
            self.module.set_requires_gradient_sync(last)  # type: ignore[operator]
            yield
        elif last:
            yield
        else:
            with self.wrapped.no_sync():  # type: ignore[operator]
                yield


def _units(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost modules in a row of several that have parameters: the blocks, whose shards travel as one."""
    for module in network.children():
        if isinstance(module, nn.Sequential | nn.ModuleList):
            members = [one for one in module if any(True for _ in one.parameters())]
            blocks = [one for one in members if any(True for _ in one.children())]
            if len(members) > 1 and len(blocks) == len(members):
                yield from (one for one in blocks if not isinstance(one, nn.ModuleList))
                continue
        yield from _units(module)


def distribute(training: Training, world: World) -> None:
    """Give all ranks rank 0's weights and optimiser, and wrap the network; nothing where there is one process.

    Args:
        training: built and, after a stop, restored on rank 0; whole on every rank.
        world: the ranks it trains with from now on.
    """
    training.world = world
    if world.size == 1:
        return
    network, average, kind = training.model.network, training.average, training.config.parallel
    for tensors in rank_state(training):
        world.spread(tensors)
    if training.config.sync_batch_norm:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]  # module by module in place; parameters stay the same
        if training.transfer is not None:
            training.transfer.norms = [one for one in network.modules() if isinstance(one, nn.SyncBatchNorm)]
    if kind == "fsdp":
        for parameter in network.parameters():
            parameter.data = parameter.data.contiguous()
    training.learner = Learner(training.task, training.model, world, kind, world.place(str(training.device)))
    if kind == "fsdp":
        parameters = dict(network.named_parameters())
        optimizer = training.optimizer
        if isinstance(optimizer, Lookahead):
            optimizer.parameters = {name: parameters[name] for name in optimizer.parameters}
            optimizer.slow = _shards(optimizer.slow, parameters)
            optimizer = optimizer.inner
        optimizer.parameters = {name: parameters[name] for name in optimizer.parameters}
        optimizer.slots = {slot: _shards(values, parameters) for slot, values in optimizer.slots.items()}
        if average is not None:
            average.average = _shards(average.average, parameters)


def rank_state(training: Training) -> Iterator[Mapping[str, Tensor]]:
    """Yield all tensors that a checkpoint holds: rank 0 alone has read it."""
    yield training.model.network.state_dict()
    yield training.optimizer.state()
    if training.average is not None:
        yield training.average.average
    if training.scaler is not None:
        yield training.scaler.tensors


def _shards(values: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return whole ``values`` as shards where those of the parameters lie; what belongs to no parameter stays whole."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    found: dict[str, Tensor] = {}
    for name, value in values.items():
        parameter = parameters[name].data if name in parameters else None
        if isinstance(parameter, DTensor):
            mesh, placements = parameter.device_mesh, parameter.placements
            # Each rank has the whole value already and takes its shard of it; nothing is sent.
            found[name] = distribute_tensor(
                value.contiguous().to(parameter.device), mesh, placements, src_data_rank=None
            )
        else:
            found[name] = value
    return found


def buffers(training: Training) -> dict[str, Tensor]:
    """Return what of network and average is no parameter: running statistics, which differ from rank to rank."""
    parameters = {name for name, _ in training.model.network.named_parameters()}
    kept = {f"network/{name}": value for name, value in training.model.network.state_dict().items()}
    if training.average is not None:
        kept |= {f"average/{name}": value for name, value in training.average.average.items()}
    return {name: value for name, value in kept.items() if name.partition("/")[2] not in parameters}


def full(tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """Return whole tensors in memory for shards, on rank 0; all ranks take part, the others get nothing."""
    whole: dict[str, Tensor] = {}
    for name, value in tensors.items():
        gather = getattr(value, "full_tensor", None)
        value = value if gather is None else gather()
        if world.first:
            whole[name] = value.detach() if gather is None else value.detach().cpu()
    return whole
