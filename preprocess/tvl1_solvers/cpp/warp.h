// The second frame and its gradient at the positions a flow points to.
#pragma once

#include "field.h"
#include "numbers.h"

namespace tvl1 {

// Cubic convolution (Keys 1981) at fraction t for taps -1..2, and its derivative.
inline void cubic_weights(Vec t, double parameter, Vec* w, Vec* d) {
    const float a = (float)parameter, a2 = (float)(parameter + 2), a3 = (float)(parameter + 3);
    const float b2 = (float)(3 * (parameter + 2)), b3 = (float)(2 * (parameter + 3));
    Vec s = 1.0f - t;
    w[0] = a * t * s * s;
    w[1] = (a2 * t - a3) * t * t + 1.0f;
    w[2] = (a2 * s - a3) * s * s + 1.0f;
    w[3] = a * s * t * t;
    d[0] = a * s * (s - 2.0f * t);
    d[1] = (b2 * t - b3) * t;
    d[2] = -(b2 * s - b3) * s;
    d[3] = -a * t * (t - 2.0f * s);
}

struct Sample { Vec value, dx, dy; };

// All lanes read the same integer offset, or one of two neighbours: then rows are loaded whole.
// `taps` is 4, or 5 where lanes differ by one and the weights of the later ones are moved up.
template <int TAPS>
inline Sample sample_rows(const float* corner, int stride, const Vec* wx, const Vec* dx,
                          const Vec* wy, const Vec* dy) {
    Sample s{};
    for (int j = 0; j < TAPS; j++, corner += stride) {
        Vec value{}, slope{};
        for (int i = 0; i < TAPS; i++) {
            Vec pixel = load(corner + i);
            value += wx[i] * pixel;
            slope += dx[i] * pixel;
        }
        s.value += wy[j] * value;
        s.dx += wy[j] * slope;
        s.dy += dy[j] * value;
    }
    return s;
}

inline Sample sample_lanes(const Image& image, IVec x, IVec y, const Vec* wx, const Vec* dx,
                           const Vec* wy, const Vec* dy) {
    Sample s{};
    for (int lane = 0; lane < LANES; lane++) {
        float total = 0, total_x = 0, total_y = 0;
        for (int j = 0; j < 4; j++) {
            const float* pixel = image.row(y[lane] - 1 + j) + x[lane] - 1;
            float value = 0, slope = 0;
            for (int i = 0; i < 4; i++) value += wx[i][lane] * pixel[i], slope += dx[i][lane] * pixel[i];
            total += wy[j][lane] * value, total_x += wy[j][lane] * slope;
            total_y += dy[j][lane] * value;
        }
        s.value[lane] = total, s.dx[lane] = total_x, s.dy[lane] = total_y;
    }
    return s;
}

inline void move_up(IVec later, Vec* w) {  // 4 weights to 5, one tap later where `later` is set
    w[4] = later ? w[3] : Vec{};
    for (int i = 3; i > 0; i--) w[i] = later ? w[i - 1] : w[i];
    w[0] = later ? Vec{} : w[0];
}

// The least value and how far the greatest is above it: 0, 1 or 2 for more.
struct Range { int low, spread; };
inline Range range(IVec v) {
    IVec off = v - v[0];
    const int below = any(off < 0), above = any(off > 0);
    return {v[0] - below, any(off > 1) || any(off < -1) ? 2 : below + above};
}

// A gradient of less than 1/1000 grey value a pixel is rounding noise: its direction is faded out.
constexpr float SMALLEST_GRADIENT_SQUARED = 1e-6f;

struct Second { Image value, dx, dy; };  // the second frame; dx, dy only for central differences

// Linearise |I1(x + u) - I0(x)| at the field's flow (Zach et al., eq. 5 and 6).
void warp(const Image& first, const Second& second, Field& field, const Numbers& n, double reach) {
    const int width = field.width, height = field.height, stride = second.value.stride;
    const float weight = (float)(n.attachment * reach);
    IVec lanes = __builtin_convertvector(lane_numbers(), IVec);
    for (int y = 0; y < height; y++) {
        for (int g = 0; g < field.groups; g++) {
            float* state = field.group(y, g);
            Vec u = load(state + U * LANES), v = load(state + V * LANES);
            Vec x = lane_numbers() + (float)(g * LANES);
            Vec inside = field.inside(g);
            Vec at_x = x + u, at_y = (float)y + v;
            // Lanes beyond the image stay where they are: they must not break the fast path.
            Vec on_x = smaller(larger(at_x, Vec{}), larger(x, all(width - 1.0f)));
            Vec on_y = smaller(larger(at_y, Vec{}), all(height - 1.0f));
            IVec ix = __builtin_convertvector(on_x, IVec), iy = __builtin_convertvector(on_y, IVec);
            Vec wx[5], dx[5], wy[5], dy[5];
            cubic_weights(on_x - __builtin_convertvector(ix, Vec), n.cubic, wx, dx);
            cubic_weights(on_y - __builtin_convertvector(iy, Vec), n.cubic, wy, dy);

            IVec shift = ix - (lanes + g * LANES);
            const Range across = range(shift), down = range(iy);
            const long offset = (long)(down.low - 1) * stride + g * LANES + across.low - 1;
            Sample s;
            if (across.spread == 0 && down.spread == 0) {
                s = sample_rows<4>(second.value.row(0) + offset, stride, wx, dx, wy, dy);
                if (n.central) {
                    s.dx = sample_rows<4>(second.dx.row(0) + offset, stride, wx, dx, wy, dy).value;
                    s.dy = sample_rows<4>(second.dy.row(0) + offset, stride, wx, dx, wy, dy).value;
                }
            } else if (across.spread <= 1 && down.spread <= 1) {
                IVec later_x = shift > across.low, later_y = iy > down.low;
                move_up(later_x, wx), move_up(later_x, dx), move_up(later_y, wy), move_up(later_y, dy);
                s = sample_rows<5>(second.value.row(0) + offset, stride, wx, dx, wy, dy);
                if (n.central) {
                    s.dx = sample_rows<5>(second.dx.row(0) + offset, stride, wx, dx, wy, dy).value;
                    s.dy = sample_rows<5>(second.dy.row(0) + offset, stride, wx, dx, wy, dy).value;
                }
            } else {
                s = sample_lanes(second.value, ix, iy, wx, dx, wy, dy);
                if (n.central) {
                    s.dx = sample_lanes(second.dx, ix, iy, wx, dx, wy, dy).value;
                    s.dy = sample_lanes(second.dy, ix, iy, wx, dx, wy, dy).value;
                }
            }

            // Targets outside the frame say nothing; the data term fades within one pixel.
            Vec fade = 1.0f - magnitude(at_x - on_x) - magnitude(at_y - on_y);
            fade = larger(fade, Vec{}) * inside;
            s.dx *= fade, s.dy *= fade;
            Vec residual = (s.value - load(first.row(y) + g * LANES)) * fade - s.dx * u - s.dy * v;
            Vec squared = s.dx * s.dx + s.dy * s.dy;
            Vec inverse = 1.0f / square_root(larger(squared, all(SMALLEST_GRADIENT_SQUARED)));
            store(state + EX * LANES, s.dx * inverse);
            store(state + EY * LANES, s.dy * inverse);
            store(state + RES * LANES, residual * inverse);
            store(state + BOUND * LANES, weight * (squared * inverse));
        }
    }
}

}  // namespace tvl1
