// Compiled once for each instruction set, each time under another name: see hatch_build.py.
#include "kernels.h"
#include "attention.h"
#include "elementwise.h"
#include "products.h"

#if defined(__AVX512VNNI__)
const Kernels kernels_avx512 = {
    .name = "avx512",
#elif defined(__AVX2__)
const Kernels kernels_avx2 = {
    .name = "avx2",
#else
const Kernels kernels_plain = {
    .name = "plain",
#endif
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .gate = gate,
    .elu = elu,
    .round_vector = round_vector,
    .product = product,
    .float_product = float_product,
    .turn = turn,
    .append = append,
    .attend = attend,
};
