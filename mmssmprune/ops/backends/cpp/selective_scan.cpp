// Selective scan on a CPU, forward and backward; Python calls it through ctypes with pointers and strides.
//
// A vector holds neighbouring channels. Time goes in chunks of CHUNK steps, and within a chunk one vector of channels at
// a time: its operands are gathered into a Tile, whatever their strides, so that the arithmetic works on the L1 cache
// alone. The states before each chunk are kept for backward, which makes the rest of a chunk again and walks it back.
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

constexpr int CHUNK = 16, GROUP = 8;  // steps of a chunk; states in registers at a time. Python knows both.

struct View {  // an operand (batch, channel or state, time); strides in elements; data is null where it is absent
    void* data;
    int64_t batch, channel, time;
};

struct Scan {  // as in __init__.py
    View u, delta, z, gap, B, C, grad_out;        // operands
    View out, du, ddelta, dz, dgap, dB, dC;       // results; dB and dC: one slab per part of the channels
    void *weights, *saved, *carry, *sums;         // rows of `padded` channels, see __init__.py
    int64_t batch, dim, states, length, padded, padded_states, softplus, parts, threads;
};

template <class T> struct Lanes;
template <> struct Lanes<float> {
    typedef float Vec __attribute__((vector_size(VECTOR_BYTES)));
    typedef int32_t Int __attribute__((vector_size(VECTOR_BYTES)));
    static constexpr int mantissa = 23, bias = 127;
    // Minimax fits: 2^x on [-1/2, 1/2] to 2e-9; atanh(s)/s in s^2 on [0, 1/9] to 4e-9.
    static constexpr float exp2[] = {1.f, 0.693147203f, 0.240226479f, 0.0555033247f, 0.00961843736f, 0.00133988744f, 0.000153533619f};
    static constexpr float atanh[] = {1.f, 0.333332081f, 0.200107636f, 0.140009026f, 0.140059935f};
};
template <> struct Lanes<double> {
    typedef double Vec __attribute__((vector_size(VECTOR_BYTES)));
    typedef int64_t Int __attribute__((vector_size(VECTOR_BYTES)));
    static constexpr int mantissa = 52, bias = 1023;
    // Taylor series, cut where the next term is below 1e-17.
    static constexpr double exp2[] = {1., 0.6931471805599453, 0.24022650695910072, 0.05550410866482158, 0.009618129107628477,
        0.0013333558146428443, 0.0001540353039338161, 1.5252733804059841e-05, 1.3215486790144307e-06, 1.0178086009239699e-07,
        7.054911620801121e-09, 4.4455382718708106e-10, 2.5678435993488206e-11, 1.3691488853904128e-12};
    static constexpr double atanh[] = {1., 1. / 3, 1. / 5, 1. / 7, 1. / 9, 1. / 11, 1. / 13, 1. / 15, 1. / 17, 1. / 19, 1. / 21,
        1. / 23, 1. / 25, 1. / 27, 1. / 29, 1. / 31, 1. / 33};
};
template <class T> using Vec = typename Lanes<T>::Vec;
template <class T> constexpr int width = VECTOR_BYTES / sizeof(T);

#define INLINE static inline __attribute__((always_inline))

template <class T> INLINE Vec<T> load(const T* from) { Vec<T> v; std::memcpy(&v, from, sizeof v); return v; }
template <class T> INLINE void store(T* to, Vec<T> v) { std::memcpy(to, &v, sizeof v); }

template <class T, int N> INLINE Vec<T> polynomial(const T (&c)[N], Vec<T> x) {
    Vec<T> p = x * c[N - 1] + c[N - 2];
#pragma GCC unroll 32
    for (int k = N - 3; k >= 0; k--) p = p * x + c[k];
    return p;
}

#if defined(__AVX512F__)
INLINE __m512 nearest(__m512 x) { return _mm512_roundscale_ps(x, 8); }
INLINE __m512d nearest(__m512d x) { return _mm512_roundscale_pd(x, 8); }
INLINE __m512 scale(__m512 x, __m512 e) { return _mm512_scalef_ps(x, e); }
INLINE __m512d scale(__m512d x, __m512d e) { return _mm512_scalef_pd(x, e); }
template <class T> INLINE Vec<T> exp2(Vec<T> x) {
    Vec<T> whole = nearest(x);
    return scale(polynomial<T>(Lanes<T>::exp2, x - whole), whole);
}
#else
template <class T> INLINE Vec<T> exp2(Vec<T> x) {
    using L = Lanes<T>;
    constexpr T top = L::bias + 1, low = -L::bias, magic = T(3) * (int64_t(1) << (L::mantissa - 1));
    // At the bounds the exponent's bits become those of infinity and of zero; below 2^-126 the result is only near.
    x = x > top ? Vec<T>{} + top : x;
    x = x < low ? Vec<T>{} + low : x;
    Vec<T> shifted = x + magic, p = polynomial<T>(L::exp2, x - (shifted - magic));
    typename L::Int bits = (typename L::Int)p + ((typename L::Int)shifted << L::mantissa);
    return (Vec<T>)bits;
}
#endif

constexpr double LOG2E = 1.4426950408889634;

template <class T> INLINE Vec<T> sigmoid(Vec<T> x) { return 1 / (1 + exp2<T>(x * T(-LOG2E))); }

// log(1 + e^x) and, if asked, its slope; the identity above 20, as in torch.
template <class T> INLINE Vec<T> softplus(Vec<T> x, Vec<T>* slope) {
    Vec<T> small = exp2<T>((x < 0 ? x : -x) * T(LOG2E));  // e^-|x|
    Vec<T> s = small / (2 + small), soft = 2 * s * polynomial<T>(Lanes<T>::atanh, s * s);
    if (slope) {
        Vec<T> q = 1 / (1 + small);
        *slope = x > 20 ? Vec<T>{} + 1 : (x < 0 ? small * q : q);
    }
    return x > 20 ? x : (x < 0 ? soft : x + soft);
}

template <class T> struct Tile {  // one chunk of one vector of channels
    using V = Vec<T>;
    V u[CHUNK], delta[CHUNK], slope[CHUNK], time[CHUNK], input[CHUNK], y[CHUNK], dy[CHUNK], z[CHUNK], grad[CHUNK];
    V dinput[CHUNK], dtime[CHUNK], decay[CHUNK][GROUP], states[CHUNK + 1][GROUP];
};

// Channels in the vector from d0 on: fewer than its width, or none, where it pads.
template <class T> INLINE int lanes_at(const Scan& s, int64_t d0) {
    const int64_t left = s.dim - d0;
    return left < 0 ? 0 : left < width<T> ? int(left) : width<T>;
}

template <class T> INLINE void gather(const View& from, int64_t b, int64_t t0, int steps, int64_t d0, int lanes, Vec<T>* to) {
    const T* at = (const T*)from.data + b * from.batch + t0 * from.time + d0 * from.channel;
    if (lanes == width<T> && from.channel == 1) {
        for (int t = 0; t < steps; t++) to[t] = load(at + t * from.time);
        return;
    }
    for (int t = 0; t < steps; t++) {
        T row[width<T>] = {};
        for (int i = 0; i < lanes; i++) row[i] = at[t * from.time + i * from.channel];
        to[t] = load(row);
    }
}

template <class T> INLINE void scatter(const Vec<T>* from, const View& to, int64_t b, int64_t t0, int steps, int64_t d0, int lanes) {
    T* at = (T*)to.data + b * to.batch + t0 * to.time + d0;  // results have channel stride 1
    for (int t = 0; t < steps; t++, at += to.time)
        if (lanes == width<T>) store(at, from[t]);
        else std::memcpy(at, &from[t], lanes * sizeof(T));
}

// B or C of one chunk, time first, with zeros for the states that only pad.
template <class T> void gather_states(const View& from, const Scan& s, int64_t b, int64_t t0, int steps, T* to) {
    const T* at = (const T*)from.data + b * from.batch + t0 * from.time;
    for (int t = 0; t < steps; t++, at += from.time, to += s.padded_states)
        for (int n = 0; n < s.states; n++) to[n] = at[n * from.channel];
}

template <class T> void fill(Tile<T>& tile, const Scan& s, int64_t b, int64_t t0, int steps, int64_t d0, bool slope) {
    using V = Vec<T>;
    const int lanes = lanes_at<T>(s, d0);
    const T* weights = (const T*)s.weights + s.padded_states * s.padded + d0;
    const V skip = load(weights), bias = load(weights + s.padded);
    gather<T>(s.u, b, t0, steps, d0, lanes, tile.u);
    gather<T>(s.delta, b, t0, steps, d0, lanes, tile.delta);
    if (s.gap.data) gather<T>(s.gap, b, t0, steps, d0, lanes, tile.time);
    if (s.z.data) gather<T>(s.z, b, t0, steps, d0, lanes, tile.z);
    for (int t = 0; t < steps; t++) {
        V delta = tile.delta[t] + bias;
        if (s.softplus) delta = softplus<T>(delta, slope ? &tile.slope[t] : nullptr);
        tile.delta[t] = delta;
        tile.time[t] = s.gap.data ? delta + tile.time[t] : delta;
        tile.input[t] = delta * tile.u[t];
        tile.y[t] = skip * tile.u[t];
    }
}

// Run G states through a chunk: h = 2^(time A log2 e) h + input B, y += C h. KEEP leaves decays and states in the tile.
template <class T, int G, bool KEEP>
void advance(Tile<T>& tile, const T* A, int64_t row, const T* B, const T* C, int64_t states, T* h_row, T* after, int steps) {
    Vec<T> a[G], h[G];
    for (int n = 0; n < G; n++) a[n] = load(A + n * row), h[n] = load(h_row + n * row);
    if (KEEP) for (int n = 0; n < G; n++) tile.states[0][n] = h[n];
    for (int t = 0; t < steps; t++, B += states, C += states) {
        const Vec<T> exponent = tile.time[t] * T(LOG2E), input = tile.input[t];
        Vec<T> y = tile.y[t];
#pragma GCC unroll 8
        for (int n = 0; n < G; n++) {
            const Vec<T> decay = exp2<T>(exponent * a[n]);
            h[n] = decay * h[n] + input * B[n];
            y += h[n] * C[n];
            if (KEEP) tile.decay[t][n] = decay, tile.states[t + 1][n] = h[n];
        }
        tile.y[t] = y;
    }
    if (after) for (int n = 0; n < G; n++) store(after + n * row, h[n]);
}

// Walk G states back through a chunk. `carry` is the gradient of the state, sum_B and sum_C add up over the channels.
template <class T, int G>
void retreat(Tile<T>& tile, const T* A, int64_t row, const T* B, const T* C, int64_t states, T* carry, T* dA_row, Vec<T>* sum_B,
             Vec<T>* sum_C, int steps) {
    Vec<T> a[G], dh[G], dA[G];
    for (int n = 0; n < G; n++) a[n] = load(A + n * row), dh[n] = load(carry + n * row), dA[n] = load(dA_row + n * row);
    for (int t = steps - 1; t >= 0; t--) {
        const Vec<T> dy = tile.dy[t], input = tile.input[t], time = tile.time[t];
        Vec<T> dinput = tile.dinput[t], dtime = tile.dtime[t];
#pragma GCC unroll 8
        for (int n = 0; n < G; n++) {
            Vec<T> g = dh[n] + dy * C[t * states + n];
            sum_C[t * states + n] += dy * tile.states[t + 1][n];
            sum_B[t * states + n] += g * input;
            dinput += g * B[t * states + n];
            dh[n] = g * tile.decay[t][n];
            g = dh[n] * tile.states[t][n];  // gradient of the exponent time * A
            dtime += g * a[n];
            dA[n] += g * time;
        }
        tile.dinput[t] = dinput, tile.dtime[t] = dtime;
    }
    for (int n = 0; n < G; n++) store(carry + n * row, dh[n]), store(dA_row + n * row, dA[n]);
}

// Sum the lanes of each vector into its place, and clear it.
template <class T> void reduce(Vec<T>* sums, const View& to, const Scan& s, int64_t b, int64_t t0, int steps, int64_t part) {
    for (int t = 0; t < steps; t++) {
        T* at = (T*)to.data + (part * s.batch + b) * to.batch + (t0 + t) * to.time;
        for (int n = 0; n < s.states; n++) {
            T lanes[width<T>];
            store(lanes, sums[t * s.padded_states + n]);
            for (int half = width<T> / 2; half; half /= 2)
                for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
            at[n] = lanes[0];
        }
    }
    std::memset(sums, 0, steps * s.padded_states * sizeof(Vec<T>));
}

template <class T, int G> void forward_part(const Scan& s, int64_t b, int64_t first, int64_t last) {
    const int64_t P = s.padded, N = s.padded_states;
    std::vector<T> B(CHUNK * N), C(CHUNK * N);
    Tile<T> tile;
    T* saved = (T*)s.saved + b * ((s.length + CHUNK - 1) / CHUNK) * N * P;
    for (int64_t d = first; d < last; d += width<T>)
        for (int64_t n = 0; n < N; n++) store(saved + n * P + d, Vec<T>{});
    for (int64_t t0 = 0; t0 < s.length; t0 += CHUNK, saved += N * P) {
        const int steps = s.length - t0 < CHUNK ? int(s.length - t0) : CHUNK;
        gather_states(s.B, s, b, t0, steps, B.data());
        gather_states(s.C, s, b, t0, steps, C.data());
        for (int64_t d = first; d < last; d += width<T>) {
            fill(tile, s, b, t0, steps, d, false);
            for (int64_t n = 0; n < N; n += G) {
                T* after = t0 + CHUNK < s.length ? saved + (N + n) * P + d : nullptr;
                advance<T, G, false>(tile, (T*)s.weights + n * P + d, P, &B[n], &C[n], N, saved + n * P + d, after, steps);
            }
            if (s.z.data) for (int t = 0; t < steps; t++) tile.y[t] *= tile.z[t] * sigmoid<T>(tile.z[t]);
            scatter<T>(tile.y, s.out, b, t0, steps, d, lanes_at<T>(s, d));
        }
    }
}

template <class T, int G> void backward_part(const Scan& s, int64_t b, int64_t first, int64_t last, int64_t part) {
    using V = Vec<T>;
    const int64_t P = s.padded, N = s.padded_states, chunks = (s.length + CHUNK - 1) / CHUNK;
    std::vector<T> B(CHUNK * N), C(CHUNK * N);
    std::vector<V> sum_B(CHUNK * N, V{}), sum_C(CHUNK * N, V{});
    Tile<T> tile;
    T *carry = (T*)s.carry + b * N * P, *sums = (T*)s.sums + b * (N + 2) * P, *weights = (T*)s.weights;
    for (int64_t d = first; d < last; d += width<T>)
        for (int64_t n = 0; n < N + 2; n++) {
            if (n < N) store(carry + n * P + d, V{});
            store(sums + n * P + d, V{});
        }
    for (int64_t c = chunks - 1; c >= 0; c--) {
        const int64_t t0 = c * CHUNK;
        const int steps = s.length - t0 < CHUNK ? int(s.length - t0) : CHUNK;
        T* saved = (T*)s.saved + (b * chunks + c) * N * P;
        gather_states(s.B, s, b, t0, steps, B.data());
        gather_states(s.C, s, b, t0, steps, C.data());
        for (int64_t d = first; d < last; d += width<T>) {
            const int lanes = lanes_at<T>(s, d);
            fill(tile, s, b, t0, steps, d, true);
            gather<T>(s.grad_out, b, t0, steps, d, lanes, tile.grad);
            for (int t = 0; t < steps; t++) {
                tile.dy[t] = s.z.data ? tile.grad[t] * tile.z[t] * sigmoid<T>(tile.z[t]) : tile.grad[t];
                tile.dinput[t] = tile.dtime[t] = V{};
            }
            for (int64_t n = 0; n < N; n += G) {
                const T* A = weights + n * P + d;
                advance<T, G, true>(tile, A, P, &B[n], &C[n], N, saved + n * P + d, nullptr, steps);
                retreat<T, G>(tile, A, P, &B[n], &C[n], N, carry + n * P + d, sums + n * P + d, &sum_B[n], &sum_C[n], steps);
            }
            const V skip = load(weights + N * P + d);
            V dskip = load(sums + N * P + d), dbias = load(sums + (N + 1) * P + d);
            for (int t = 0; t < steps; t++) {
                V ddelta = tile.dinput[t] * tile.u[t] + tile.dtime[t];
                dskip += tile.dy[t] * tile.u[t];
                tile.u[t] = tile.dinput[t] * tile.delta[t] + skip * tile.dy[t];
                if (s.softplus) ddelta *= tile.slope[t];
                dbias += ddelta;
                tile.delta[t] = ddelta;
                if (!s.z.data) continue;
                const V gate = sigmoid<T>(tile.z[t]);
                tile.z[t] = tile.grad[t] * tile.y[t] * gate * (1 + tile.z[t] * (1 - gate));
            }
            store(sums + N * P + d, dskip), store(sums + (N + 1) * P + d, dbias);
            scatter<T>(tile.u, s.du, b, t0, steps, d, lanes);
            scatter<T>(tile.delta, s.ddelta, b, t0, steps, d, lanes);
            if (s.gap.data) scatter<T>(tile.dtime, s.dgap, b, t0, steps, d, lanes);
            if (s.z.data) scatter<T>(tile.z, s.dz, b, t0, steps, d, lanes);
        }
        reduce<T>(sum_B.data(), s.dB, s, b, t0, steps, part);
        reduce<T>(sum_C.data(), s.dC, s, b, t0, steps, part);
    }
}

template <class T, int G> void run(const Scan& s, bool backward) {
    const int64_t vectors = s.padded / width<T>;
#pragma omp parallel for num_threads(s.threads) if (s.threads > 1) schedule(static)
    for (int64_t i = 0; i < s.batch * s.parts; i++) {
        const int64_t b = i / s.parts, part = i % s.parts;
        const int64_t first = vectors * part / s.parts * width<T>, last = vectors * (part + 1) / s.parts * width<T>;
        if (backward) backward_part<T, G>(s, b, first, last, part);
        else forward_part<T, G>(s, b, first, last);
    }
}

template <class T> void run(const Scan& s, bool backward) {
    if (s.padded_states == 1) run<T, 1>(s, backward);
    else if (s.padded_states == 4) run<T, 4>(s, backward);
    else run<T, GROUP>(s, backward);
}

extern "C" void selective_scan_float(const Scan* s, int backward) { run<float>(*s, backward); }
extern "C" void selective_scan_double(const Scan* s, int backward) { run<double>(*s, backward); }
