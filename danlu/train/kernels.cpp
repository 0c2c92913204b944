// Batch norm with an addition and ReLU, and max pooling with ReLU: forward and backward, channels last, one pass each.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

struct bf16 {
    uint16_t bits;
};

inline float up(float x) { return x; }

inline float up(bf16 x) {
    const uint32_t wide = static_cast<uint32_t>(x.bits) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
}
inline void down(float x, float& y) { y = x; }
inline void down(float x, bf16& y) {  // to the nearest, ties to even, NaN stays NaN
    uint32_t wide;
    std::memcpy(&wide, &x, sizeof wide);
    const uint32_t rounded = (wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16;
    y.bits = static_cast<uint16_t>((wide & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

constexpr int64_t kWidth = 64;  // columns whose sums stay in registers
constexpr int64_t kTile = 128;  // rows after which sums in float go over to sums in double

int64_t part(int64_t total, int64_t parts, int64_t at) { return total * at / parts; }

// Calls work(thread, threads) on each of at most `threads` threads.
template <class Work>
void on_threads(int threads, const Work& work) {
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp parallel num_threads(threads)
        work(omp_get_thread_num(), omp_get_num_threads());
        return;
    }
#endif
    work(0, 1);
}

// Maps of few channels are read as if several pixels were one with as many times the channels: loops become longer.
struct Shape {
    int64_t C, width, rows, rest;  // `rows` of `width` columns, and `rest` values behind them
    Shape(int64_t pixels, int64_t channels) : C(channels) {
        int64_t together = 1;
        while (C * together < kWidth || (C * together % 16 && C * together < 4 * kWidth)) ++together;
        width = C * together;
        rows = pixels / together;
        rest = pixels % together * C;
    }
};

template <int64_t W, class At>
void add_tile(int64_t w, int64_t from, int64_t rows, int64_t width, double* one, double* two, const At& at) {
    const int64_t columns = W ? W : w;
    float a[kWidth] = {}, b[kWidth] = {};
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c) at(from + r * width + c, c, a[c], b[c]);
    for (int64_t c = 0; c < columns; ++c) {
        one[c] += a[c];
        two[c] += b[c];
    }
}

// Adds up two sums for each column over a thread's rows. make(c0) returns a function (i, c, a, b) that adds what value i
// gives, which stands in column c0 + c.
template <class Make>
void add_up(const Shape& s, int64_t t, int64_t n, double* one, double* two, const Make& make) {
    const int64_t from = part(s.rows, n, t), to = part(s.rows, n, t + 1);
    for (int64_t r0 = from; r0 < to; r0 += kTile) {
        const int64_t rows = std::min(kTile, to - r0);
        for (int64_t c0 = 0; c0 < s.width; c0 += kWidth) {
            const int64_t w = std::min(kWidth, s.width - c0), first = r0 * s.width + c0;
            if (w == kWidth)
                add_tile<kWidth>(w, first, rows, s.width, one + c0, two + c0, make(c0));
            else
                add_tile<0>(w, first, rows, s.width, one + c0, two + c0, make(c0));
        }
    }
    if (t + 1 == n)
        for (int64_t i = 0; i < s.rest; ++i) {
            float a = 0, b = 0;
            make(i)(s.rows * s.width + i, 0, a, b);
            one[i] += a;
            two[i] += b;
        }
}

double total(const std::vector<double>& sums, int64_t threads, const Shape& s, int64_t first) {
    double found = 0;
    for (int64_t t = 0; t < threads; ++t)
        for (int64_t c = first; c < first / s.width * s.width + s.width; c += s.C) found += sums[2 * s.width * t + c];
    return found;
}

// Calls row(first, columns) for each of a thread's rows.
template <class Row>
void each_row(const Shape& s, int64_t t, int64_t n, const Row& row) {
    for (int64_t r = part(s.rows, n, t); r < part(s.rows, n, t + 1); ++r) row(r * s.width, s.width);
    if (t + 1 == n && s.rest) row(s.rows * s.width, s.rest);
}

template <class T>
void norm_forward(const T* x, const T* rest, const float* weight, const float* bias, float* running_mean,
                  float* running_var, T* out, float* mean, float* inverse, float* scale, float* offset, int64_t pixels,
                  int64_t C, double eps, double momentum, int relu, int threads) {
    const Shape s(pixels, C);
    std::vector<double> sums(2 * s.width * threads);
    std::vector<float> shift(s.width), steep(s.width), high(s.width);
    for (int64_t c = 0; c < s.width; ++c) shift[c] = up(x[c % C]);  // near the mean, so that squares do not cancel
    int64_t used = 1;
    on_threads(threads, [&](int64_t t, int64_t n) {
        if (t == 0) used = n;
        add_up(s, t, n, &sums[2 * s.width * t], &sums[2 * s.width * t + s.width], [&](int64_t c0) {
            return [x, from = shift.data() + c0](int64_t i, int64_t c, float& a, float& b) {
                const float v = up(x[i]) - from[c];
                a += v;
                b += v * v;
            };
        });
    });
    for (int64_t c = 0; c < C; ++c) {
        const double first = total(sums, used, s, c) / pixels, second = total(sums, used, s, s.width + c) / pixels;
        const double variance = std::max(second - first * first, 0.0), center = first + shift[c];
        mean[c] = static_cast<float>(center);
        inverse[c] = static_cast<float>(1 / std::sqrt(variance + eps));
        if (running_mean) {
            const double unbiased = pixels > 1 ? variance * pixels / (pixels - 1) : variance;
            running_mean[c] = static_cast<float>((1 - momentum) * running_mean[c] + momentum * center);
            running_var[c] = static_cast<float>((1 - momentum) * running_var[c] + momentum * unbiased);
        }
        scale[c] = (weight ? weight[c] : 1.0f) * inverse[c];
        offset[c] = (bias ? bias[c] : 0.0f) - mean[c] * scale[c];
    }
    for (int64_t c = 0; c < s.width; ++c) {
        steep[c] = scale[c % C];
        high[c] = offset[c % C];
    }
    on_threads(threads, [&](int64_t t, int64_t n) {
        const float *__restrict__ a = steep.data(), *__restrict__ d = high.data();
        const float least = relu ? 0.0f : -INFINITY;
        each_row(s, t, n, [=](int64_t first, int64_t columns) {
            const T *__restrict__ from = x + first, *__restrict__ add = rest ? rest + first : nullptr;
            T* __restrict__ to = out + first;
            if (add)
                for (int64_t c = 0; c < columns; ++c) {
                    const float v = up(from[c]) * a[c] + d[c] + up(add[c]);
                    down(v < least ? least : v, to[c]);
                }
            else
                for (int64_t c = 0; c < columns; ++c) {
                    const float v = up(from[c]) * a[c] + d[c];
                    down(v < least ? least : v, to[c]);
                }
        });
    });
}

// Where ReLU lets a gradient through is read from `out`, or found from x again where only batch norm stands before it:
// one tensor less to read. Neither uses a branch, so that the loops around them are vectorised.
template <class T, bool relu, bool stored>
struct Through {
    const T *__restrict__ dy, *__restrict__ x, *__restrict__ out;
    float operator()(int64_t i, float scale, float offset) const {
        const float value = up(dy[i]);
        if (!relu) return value;
        const float made = stored ? up(out[i]) : up(x[i]) * scale + offset;
        return made <= 0.0f ? 0.0f : value;
    }
};

template <class T, bool relu, bool stored>
void norm_backward_as(const T* dy, const T* x, const T* out, const float* weight, const float* mean,
                      const float* inverse, const float* scale, const float* offset, T* dx, T* drest, float* dweight,
                      float* dbias, int64_t pixels, int64_t C, int threads) {
    const Shape s(pixels, C);
    const Through<T, relu, stored> through{dy, x, out};
    std::vector<double> sums(2 * s.width * threads);
    std::vector<float> center(s.width), steep(s.width), high(s.width), slope(s.width), tilt(s.width), level(s.width);
    for (int64_t c = 0; c < s.width; ++c) {
        center[c] = mean[c % C];
        steep[c] = scale[c % C];
        high[c] = offset[c % C];
    }
    int64_t used = 1;
    on_threads(threads, [&](int64_t t, int64_t n) {
        if (t == 0) used = n;
        add_up(s, t, n, &sums[2 * s.width * t], &sums[2 * s.width * t + s.width], [&](int64_t c0) {
            return [through, x, m = center.data() + c0, k = steep.data() + c0, o = high.data() + c0](
                       int64_t i, int64_t c, float& a, float& b) {
                const float g = through(i, k[c], o[c]);
                a += g;
                b += g * (up(x[i]) - m[c]);
            };
        });
    });
    for (int64_t c = 0; c < C; ++c) {
        const double one = total(sums, used, s, c), two = total(sums, used, s, s.width + c);
        dweight[c] = static_cast<float>(two * inverse[c]);
        dbias[c] = static_cast<float>(one);
        const double a = (weight ? weight[c] : 1.0) * inverse[c], b = -a * inverse[c] * inverse[c] * two / pixels;
        for (int64_t k = c; k < s.width; k += C) {
            slope[k] = static_cast<float>(a);
            tilt[k] = static_cast<float>(b);
            level[k] = static_cast<float>(-a * one / pixels - b * mean[c]);
        }
    }
    on_threads(threads, [&](int64_t t, int64_t n) {
        const float *__restrict__ k = steep.data(), *__restrict__ o = high.data();
        const float *__restrict__ a = slope.data(), *__restrict__ b = tilt.data(), *__restrict__ d = level.data();
        each_row(s, t, n, [=](int64_t first, int64_t columns) {
            T *__restrict__ to = dx + first, *__restrict__ rest = drest ? drest + first : nullptr;
            if (rest)
                for (int64_t c = 0; c < columns; ++c) {
                    const float g = through(first + c, k[c], o[c]);
                    down(g, rest[c]);
                    down(a[c] * g + b[c] * up(x[first + c]) + d[c], to[c]);
                }
            else
                for (int64_t c = 0; c < columns; ++c) {
                    const float g = through(first + c, k[c], o[c]);
                    down(a[c] * g + b[c] * up(x[first + c]) + d[c], to[c]);
                }
        });
    });
}

template <class T, class... Rest>
void norm_backward(const T* dy, const T* x, const T* out, int relu, const Rest&... rest) {
    if (!relu)
        norm_backward_as<T, false, false>(dy, x, out, rest...);
    else if (out)
        norm_backward_as<T, true, true>(dy, x, out, rest...);
    else
        norm_backward_as<T, true, false>(dy, x, out, rest...);
}

struct Pool {
    int64_t B, H, W, C, OH, OW, kernel, stride, padding;
};

// A value and its place in one integer, so that the maximum of integers is the largest value that comes first.
template <class T>
struct Coded;
template <>
struct Coded<bf16> {
    using Key = int32_t;
    static Key value(bf16 x) {
        const int32_t bits = static_cast<int16_t>((x.bits & 0x7fffu) > 0x7f80u ? 0x7fc0u : x.bits);
        return bits ^ ((bits >> 31) & 0x7fff);
    }
    static bf16 decoded(Key value) { return {static_cast<uint16_t>(value ^ ((value >> 31) & 0x7fff))}; }
};
template <>
struct Coded<float> {
    using Key = int64_t;
    static Key value(float x) {
        int32_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        bits = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc00000 : bits;
        return bits ^ ((bits >> 31) & 0x7fffffff);
    }
    static float decoded(Key value) {
        const int32_t bits = static_cast<int32_t>(value ^ ((value >> 31) & 0x7fffffff));
        float x;
        std::memcpy(&x, &bits, sizeof x);
        return x;
    }
};
constexpr int kBits = 16;          // of the place, counted down from kFirst
constexpr int32_t kFirst = 0xfffe;
constexpr uint8_t kNone = 255;     // no value is above ReLU's 0: no gradient goes on

// Channels are taken in blocks of this many. The last block of a pixel reaches into the next one, whose own blocks come
// later and are right; behind the last pixel there is room for it.
constexpr int64_t kBlock = 16;
// Written as vectors: of a loop over a block, compilers make what they like.
using Floats = float __attribute__((vector_size(4 * kBlock)));
using Ints = int32_t __attribute__((vector_size(4 * kBlock)));

template <class Vector, class T>
Vector block_at(const T* from) {
    Vector found;
    std::memcpy(&found, from, sizeof found);
    return found;
}

template <class T>
void pool_forward(const T* x, T* out, uint8_t* place, const Pool& p, int relu, int threads) {
    using Key = typename Coded<T>::Key;
    const int64_t width = p.W * p.C, made = p.OW * p.C;
    const Key outside = std::numeric_limits<Key>::min() + kFirst;
    const Key floor = relu ? Key(0xffff) : outside;
    on_threads(threads, [&](int64_t t, int64_t n) {
        std::vector<Key> columns(width + kBlock), windows(made + kBlock);
        for (int64_t at = part(p.B * p.OH, n, t); at < part(p.B * p.OH, n, t + 1); ++at) {
            const int64_t b = at / p.OH, top = at % p.OH * p.stride - p.padding;
            Key* __restrict__ most = columns.data();
            std::fill(columns.begin(), columns.end(), outside);
            for (int64_t i = std::max<int64_t>(0, -top); i < p.kernel && top + i < p.H; ++i) {
                const T* __restrict__ from = x + (b * p.H + top + i) * width;
                const Key low = static_cast<Key>(kFirst - i * p.kernel);
                for (int64_t c = 0; c < width; ++c) {
                    const Key key = (Coded<T>::value(from[c]) * (Key(1) << kBits)) | low;
                    most[c] = key > most[c] ? key : most[c];
                }
            }
            Key* __restrict__ best = windows.data();
            for (int64_t ow = 0; ow < p.OW; ++ow) {
                const int64_t left = ow * p.stride - p.padding;
                const int64_t first = std::max<int64_t>(0, -left), last = std::min(p.kernel, p.W - left);
                for (int64_t c = 0; c < p.C; c += kBlock) {
                    Key block[kBlock];
                    std::fill(block, block + kBlock, floor);
                    for (int64_t j = first; j < last; ++j) {
                        const Key* __restrict__ seen = most + (left + j) * p.C + c;
                        for (int64_t k = 0; k < kBlock; ++k) {
                            const Key key = seen[k] - static_cast<Key>(j);
                            block[k] = key > block[k] ? key : block[k];
                        }
                    }
                    std::memcpy(best + ow * p.C + c, block, sizeof block);
                }
            }
            T* __restrict__ to = out + at * made;
            uint8_t* __restrict__ index = place + at * made;
            for (int64_t q = 0; q < made; ++q) {
                const int32_t low = static_cast<int32_t>(best[q]) & 0xffff;
                to[q] = Coded<T>::decoded(best[q] >> kBits);
                index[q] = static_cast<uint8_t>(low == 0xffff ? kNone : kFirst - low);
            }
        }
    });
}

template <class T>
void pool_backward(const T* dy, const uint8_t* place, T* dx, const Pool& p, int threads) {
    const int64_t width = p.W * p.C, made = p.OW * p.C, row = made + kBlock;
    std::vector<int64_t> leftmost(p.W), rightmost(p.W);  // of the windows that see a column
    for (int64_t column = 0; column < p.W; ++column) {
        const int64_t at = column + p.padding;
        leftmost[column] = at < p.kernel ? 0 : (at - p.kernel) / p.stride + 1;
        rightmost[column] = std::min(at / p.stride, p.OW - 1);
    }
    on_threads(threads, [&](int64_t t, int64_t n) {
        std::vector<float> sums(width + kBlock), gradient(p.kernel * row);
        std::vector<int32_t> winner(p.kernel * row);
        for (int64_t at = part(p.B * p.H, n, t); at < part(p.B * p.H, n, t + 1); ++at) {
            const int64_t b = at / p.H, y = at % p.H + p.padding;
            float* __restrict__ sum = sums.data();
            // The rows of windows that see this row, each with the columns that its windows chose in it.
            const int64_t lowest = std::min(y / p.stride, p.OH - 1);
            int64_t rows = 0;
            for (; lowest >= rows && y - (lowest - rows) * p.stride < p.kernel; ++rows) {
                const int64_t oh = lowest - rows;
                const T* __restrict__ from = dy + (b * p.OH + oh) * made;
                const uint8_t* __restrict__ index = place + (b * p.OH + oh) * made;
                const int32_t first = static_cast<int32_t>((y - oh * p.stride) * p.kernel);
                float* __restrict__ g = gradient.data() + rows * row;
                int32_t* __restrict__ w = winner.data() + rows * row;
                for (int64_t q = 0; q < made; ++q) {
                    g[q] = up(from[q]);
                    w[q] = index[q] - first;
                }
            }
            for (int64_t column = 0; column < p.W; ++column) {
                const int64_t left = leftmost[column], right = rightmost[column];
                for (int64_t c = 0; c < p.C; c += kBlock) {
                    Floats block = {};
                    for (int64_t r = 0; r < rows; ++r)
                        for (int64_t ow = right; ow >= left; --ow) {
                            const int64_t q = r * row + ow * p.C + c;
                            const int32_t j = static_cast<int32_t>(column + p.padding - ow * p.stride);
                            const Ints chosen = block_at<Ints>(&gradient[q]) & (block_at<Ints>(&winner[q]) == j);
                            block += block_at<Floats>(&chosen);
                        }
                    std::memcpy(sum + column * p.C + c, &block, sizeof block);
                }
            }
            T* __restrict__ to = dx + at * width;
            for (int64_t q = 0; q < width; ++q) down(sum[q], to[q]);
        }
    });
}

}  // namespace

#define DANLU_KERNELS(T, name)                                                                                         \
    extern "C" void danlu_norm_forward_##name(                                                                         \
        const T* x, const T* rest, const float* weight, const float* bias, float* running_mean, float* running_var,    \
        T* out, float* mean, float* inverse, float* scale, float* offset, int64_t pixels, int64_t C, double eps,       \
        double momentum, int relu, int threads) {                                                                      \
        norm_forward(x, rest, weight, bias, running_mean, running_var, out, mean, inverse, scale, offset, pixels, C,   \
                     eps, momentum, relu, threads);                                                                    \
    }                                                                                                                  \
    extern "C" void danlu_norm_backward_##name(                                                                        \
        const T* dy, const T* x, const T* out, int relu, const float* weight, const float* mean, const float* inverse, \
        const float* scale, const float* offset, T* dx, T* drest, float* dweight, float* dbias, int64_t pixels,        \
        int64_t C, int threads) {                                                                                      \
        norm_backward(dy, x, out, relu, weight, mean, inverse, scale, offset, dx, drest, dweight, dbias, pixels, C,    \
                      threads);                                                                                        \
    }                                                                                                                  \
    extern "C" void danlu_pool_forward_##name(const T* x, T* out, uint8_t* place, const int64_t* shape, int relu,      \
                                              int threads) {                                                           \
        Pool p;                                                                                                        \
        std::memcpy(&p, shape, sizeof p);                                                                              \
        pool_forward(x, out, place, p, relu, threads);                                                                 \
    }                                                                                                                  \
    extern "C" void danlu_pool_backward_##name(const T* dy, const uint8_t* place, T* dx, const int64_t* shape,         \
                                               int threads) {                                                          \
        Pool p;                                                                                                        \
        std::memcpy(&p, shape, sizeof p);                                                                              \
        pool_backward(dy, place, dx, p, threads);                                                                      \
    }

DANLU_KERNELS(float, float32)
DANLU_KERNELS(bf16, bfloat16)
