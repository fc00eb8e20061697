"""What a network costs: parameters, floating-point operations, and the memory that a training step holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import keras
import tensorflow as tf

from .network import build_model
from .network_config import NetworkConfig

# Operations whose gradient needs their inputs, and operations whose gradient needs their output.
NEEDS_INPUTS = frozenset({"Conv2D", "DepthwiseConv2dNative", "FusedBatchNormV3", "Mul"})
NEEDS_OUTPUT = frozenset({"Sigmoid", "Relu", "Tanh"})
WEIGHTS = frozenset({"ReadVariableOp", "Cast"})  # operations that read a weight, and round it under mixed precision
BYTES_A_PARAMETER = 20  # five float32: the weight, its gradient, Adam's two moments, and its moving average


@dataclass(frozen=True)
class Cost:
    """What a network costs for patches of one size.

    Attributes:
        parameters: Number of weights.
        flops: Floating-point operations to predict one patch; a multiplication and an addition count as two.
        held_bytes: Memory that a training step holds for one patch until its gradients are known, in bytes.
    """

    parameters: int
    flops: float
    held_bytes: int

    def step_bytes(self, batch: int) -> int:
        """Memory of a training step on one device with `batch` patches, without that of libraries, in bytes."""
        return BYTES_A_PARAMETER * self.parameters + batch * self.held_bytes


def cost(config: NetworkConfig, side_px: int, *, compute_dtype: str | None = None) -> Cost:
    """Work out what a network costs, from its graph. No patch is computed.

    Args:
        config: Its layout.
        side_px: Side of a patch as the network sees it, in px.
        compute_dtype: See `hubmap_kit.models.network.build_model`.
    """
    model, _ = build_model(config, compute_dtype=compute_dtype)
    patch = tf.TensorSpec((1, side_px, side_px, 3), tf.uint8)
    graph = tf.function(lambda rgb: model(rgb, training=True)).get_concrete_function(patch).graph
    builder = tf.compat.v1.profiler.ProfileOptionBuilder
    options = builder(builder.float_operation()).with_empty_output().build()
    flops = tf.compat.v1.profiler.profile(graph, options=options).total_float_ops
    held = {}
    for operation in graph.get_operations():
        tensors = list(operation.inputs) if operation.type in NEEDS_INPUTS else []
        tensors += operation.outputs if operation.type in NEEDS_OUTPUT else []
        held.update({tensor.name: tensor for tensor in tensors})
    held_bytes = sum(
        math.prod(tensor.shape) * tensor.dtype.size
        for tensor in held.values()
        if tensor.shape.rank == 4 and tensor.op.type not in WEIGHTS
    )
    keras.backend.clear_session()
    return Cost(model.count_params(), float(flops), held_bytes)
