"""Functions on images: on symbols inside `forward`, on NumPy arrays everywhere else.

    import striate.functional as F

Results on arrays are new float32 arrays; inputs are never changed, but for the running
statistics of `batch_norm` in training.
"""

from striate.functional.activation import elu as elu
from striate.functional.activation import gelu as gelu
from striate.functional.activation import hardsigmoid as hardsigmoid
from striate.functional.activation import hardswish as hardswish
from striate.functional.activation import hardtanh as hardtanh
from striate.functional.activation import leaky_relu as leaky_relu
from striate.functional.activation import log_softmax as log_softmax
from striate.functional.activation import mish as mish
from striate.functional.activation import prelu as prelu
from striate.functional.activation import relu as relu
from striate.functional.activation import relu6 as relu6
from striate.functional.activation import sigmoid as sigmoid
from striate.functional.activation import silu as silu
from striate.functional.activation import softmax as softmax
from striate.functional.activation import softplus as softplus
from striate.functional.activation import tanh as tanh
from striate.functional.convolution import conv2d as conv2d
from striate.functional.convolution import conv2d_grad as conv2d_grad
from striate.functional.convolution import conv_transpose2d as conv_transpose2d
from striate.functional.convolution import conv_transpose2d_grad as conv_transpose2d_grad
from striate.functional.convolution import linear as linear
from striate.functional.local_norm import group_norm as group_norm
from striate.functional.local_norm import instance_norm as instance_norm
from striate.functional.local_norm import layer_norm as layer_norm
from striate.functional.local_norm import layer_norm2d as layer_norm2d
from striate.functional.local_norm import local_response_norm as local_response_norm
from striate.functional.losses import binary_cross_entropy as binary_cross_entropy
from striate.functional.losses import (
    binary_cross_entropy_with_logits as binary_cross_entropy_with_logits,
)
from striate.functional.losses import check_labels as check_labels
from striate.functional.losses import cross_entropy as cross_entropy
from striate.functional.losses import l1_loss as l1_loss
from striate.functional.losses import mse_loss as mse_loss
from striate.functional.losses import nll_loss as nll_loss
from striate.functional.movement import channel_shuffle as channel_shuffle
from striate.functional.movement import concat as concat
from striate.functional.movement import flatten as flatten
from striate.functional.movement import interpolate as interpolate
from striate.functional.movement import pad as pad
from striate.functional.movement import transpose as transpose
from striate.functional.normalisation import batch_norm as batch_norm
from striate.functional.normalisation import batch_norm_grad as batch_norm_grad
from striate.functional.normalisation import dropout as dropout
from striate.functional.pooling import adaptive_avg_pool2d as adaptive_avg_pool2d
from striate.functional.pooling import adaptive_max_pool2d as adaptive_max_pool2d
from striate.functional.pooling import avg_pool2d as avg_pool2d
from striate.functional.pooling import avg_pool2d_grad as avg_pool2d_grad
from striate.functional.pooling import lp_pool2d as lp_pool2d
from striate.functional.pooling import max_pool2d as max_pool2d
from striate.functional.pooling import max_pool2d_grad as max_pool2d_grad
from striate.functional.product import matmul as matmul
