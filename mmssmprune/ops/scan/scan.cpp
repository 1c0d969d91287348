// Selective scan of several directions on a CPU, forward and backward; Python calls it through ctypes.
//
// A vector holds neighbouring channels. Time goes in chunks of CHUNK steps, and within a chunk one vector of channels
// at a time: the walk of a direction gathers its operands into a tile, so that the arithmetic works on the L1 cache
// alone. Directions with the same delta at each step go through a chunk together and share its exponentials. The states
// before each chunk are kept for backward, which makes the rest of a chunk again and walks it back. A thread owns an
// image, or a part of its channels, so that directions are added up without a race.
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
constexpr int FAR = 8;                // a gap up to which its decay is a power: the error of a power grows with it

struct View {  // an operand (set, batch, token, channel or state); strides in elements; data is null where it is absent
    void* data;
    int64_t set, batch, token, channel;
};

struct Scan {  // as in cpp_launch.py
    View u, delta, z, gap_time, B, C, grad_out, total;    // operands; total is a result of forward
    View out, dy, du, ddelta, dz, dgap_time, dB, dC;      // results, channels adjacent; dB and dC: a batch per part
    void *weights, *saved, *carry, *sums;              // rows of `padded` channels, see there
    void *direction_B, *dmoves;                        // rows of `padded_states`
    int32_t *order, *move, *gap;                       // (1 or batch, directions, length)
    int64_t batch, dim, states, length, padded, padded_states, directions, inputs, sets, together, permute, softplus, given_gap;
    int64_t moves, order_batch, move_batch, saved_chunk, parts, threads;
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

#define INLINE inline __attribute__((always_inline))

template <class T> static INLINE Vec<T> load(const T* from) { Vec<T> v; std::memcpy(&v, from, sizeof v); return v; }
template <class T> static INLINE void store(T* to, Vec<T> v) { std::memcpy(to, &v, sizeof v); }

template <class T, int N> static INLINE Vec<T> polynomial(const T (&c)[N], Vec<T> x) {
    Vec<T> p = x * c[N - 1] + c[N - 2];
#pragma GCC unroll 32
    for (int k = N - 3; k >= 0; k--) p = p * x + c[k];
    return p;
}

#if defined(__AVX512F__)
static INLINE __m512 nearest(__m512 x) { return _mm512_roundscale_ps(x, 8); }
static INLINE __m512d nearest(__m512d x) { return _mm512_roundscale_pd(x, 8); }
static INLINE __m512 scale(__m512 x, __m512 e) { return _mm512_scalef_ps(x, e); }
static INLINE __m512d scale(__m512d x, __m512d e) { return _mm512_scalef_pd(x, e); }
template <class T> static INLINE Vec<T> exp2(Vec<T> x) {
    Vec<T> whole = nearest(x);
    return scale(polynomial<T>(Lanes<T>::exp2, x - whole), whole);
}
#else
template <class T> static INLINE Vec<T> exp2(Vec<T> x) {
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

template <class T> static INLINE Vec<T> sigmoid(Vec<T> x) { return 1 / (1 + exp2<T>(x * T(-LOG2E))); }

// log(1 + e^x) and, if asked, its slope; the identity above 20, as in torch.
template <class T> static INLINE Vec<T> softplus(Vec<T> x, Vec<T>* slope) {
    Vec<T> small = exp2<T>((x < 0 ? x : -x) * T(LOG2E));  // e^-|x|
    Vec<T> s = small / (2 + small), soft = 2 * s * polynomial<T>(Lanes<T>::atanh, s * s);
    if (slope) {
        Vec<T> q = 1 / (1 + small);
        *slope = x > 20 ? Vec<T>{} + 1 : (x < 0 ? small * q : q);
    }
    return x > 20 ? x : (x < 0 ? soft : x + soft);
}

struct Walk {  // one direction in one chunk: tokens of u and y, and of delta, B and C from the step before on
    int64_t cell[CHUNK], place[CHUNK + 1];
    int gap[CHUNK], move[CHUNK];
};

template <class T, int G> struct Worker {  // a part of the channels of one image
    using V = Vec<T>;
    static constexpr int W = width<T>;
    const Scan& s;
    const int64_t b, slab, first, last, P, N, chunks;  // slab: where dB, dC and dmoves of this part are
    const bool shared, adds;  // directions go together; ddelta, dB and dC add up those that do not
    std::vector<Walk> walks;
    std::vector<T> B, C;
    std::vector<V> ready, sum_B, sum_C;  // ready: exp(delta A) from the step before the chunk on, last of delta_gap
    int64_t r0, t0, set, d;              // where it is: first direction, first step, set of parameters, channel
    int steps;
    // The tile. Row 0 of delta, slope and ddelta is the step before the chunk.
    V delta[CHUNK + 1], slope[CHUNK + 1], ddelta[CHUNK + 1], states[CHUNK + 1][G], decay[CHUNK][G], gap_size;
    V u[CHUNK], time[CHUNK], input[CHUNK], y[CHUNK], dy[CHUNK], dinput[CHUNK], dtime[CHUNK];

    Worker(const Scan& s, int64_t b, int64_t part)
        : s(s), b(b), slab(part * s.batch + b), first(s.padded / W * part / s.parts * W),
          last(s.padded / W * (part + 1) / s.parts * W), P(s.padded), N(s.padded_states),
          chunks((s.length + CHUNK - 1) / CHUNK), shared(s.together > 1), adds(s.sets * s.together < s.directions),
          walks(s.together), B(s.together * CHUNK * N), C(CHUNK * N), ready(shared ? (CHUNK + 2) * N : 0) {}

    T* weights(int64_t row) const { return (T*)s.weights + (set * (N + 3) + row) * P + d; }
    T* sums(int64_t row) const { return (T*)s.sums + ((b * s.sets + set) * (N + 3) + row) * P + d; }
    T* carry(int64_t i, int64_t row) const {
        return (T*)s.carry + ((b * s.directions + r0 + i) * (N + 1) + row) * P + d;
    }
    T* saved(int64_t i, int64_t c) const {
        return (T*)s.saved + (b * s.directions + r0 + i) * (s.saved_chunk ? chunks : 1) * N * P + c * s.saved_chunk + d;
    }

    static T* at(const View& x, int64_t of, int64_t batch, int64_t token) {
        return (T*)x.data + of * x.set + batch * x.batch + token * x.token;
    }
    V read(const View& from, int64_t of, int64_t token) const {
        const T* row = at(from, of, b, token) + d * from.channel;
        if (from.channel == 1 && d + W <= s.dim) {
            __builtin_prefetch(row + W);  // the next vector is read soon
            return load(row);
        }
        T lanes[W] = {};
        for (int i = 0; i < W && d + i < s.dim; i++) lanes[i] = row[i * from.channel];
        return load(lanes);
    }
    void write(const View& to, int64_t of, int64_t token, V value, bool add = false) const {
        T* row = at(to, of, b, token) + d;
        if (add) value += read(to, of, token);
        if (d + W <= s.dim) store(row, value);
        else if (d < s.dim) std::memcpy(row, &value, (s.dim - d) * sizeof(T));
    }

    // Look up the walks of one chunk, and its B and C, with zeros for the states that only pad.
    void begin(int64_t c) {
        t0 = c * CHUNK, steps = s.length - t0 < CHUNK ? int(s.length - t0) : CHUNK, set = s.sets > 1 ? r0 : 0;
        for (int64_t i = 0; i < s.together; i++)
            for (int t = t0 ? -1 : 0; t < steps; t++) {
                Walk& walk = walks[i];
                const int64_t r = r0 + i, step = t0 + t, in_walk = r * s.length + step;
                const int64_t in_sequence = r % 2 ? s.length - 1 - step : step;
                const int64_t cell = s.order ? s.order[b * s.order_batch + in_walk] : in_sequence;
                const int64_t place = walk.place[t + 1] = s.permute ? cell : step;
                if (t < 0) continue;
                walk.cell[t] = cell;
                walk.gap[t] = s.gap && step ? s.gap[b * s.directions * s.length + in_walk] : 0;
                walk.move[t] = s.direction_B ? s.move[b * s.move_batch + in_walk] : 0;
                const T *B_t = at(s.B, set, b, place), *C_t = at(s.C, set, b, place);
                for (int n = 0; n < s.states; n++) {
                    const T added = s.direction_B ? ((T*)s.direction_B)[walk.move[t] * N + n] : 0;
                    B[(i * CHUNK + t) * N + n] = B_t[n * s.B.channel] + added;
                    C[t * N + n] = C_t[n * s.C.channel];
                }
            }
    }

    // Delta of the tile, and the exponentials that directions share. Row 0, the step before the chunk, is what passes
    // at pruned cells before its first step; only gaps ask for it.
    void fill(bool with_slope) {
        const int from = s.gap && t0 ? 0 : 1;
        const V bias = load(weights(N + 1));
        gap_size = load(weights(N + 2));
        delta[0] = V{};
        for (int t = from; t <= steps; t++) {
            delta[t] = read(s.delta, set, walks[0].place[t]) + bias;
            if (s.softplus) delta[t] = softplus<T>(delta[t], with_slope ? &slope[t] : nullptr);
        }
        if (!shared) return;
        for (int64_t n = 0; n < N; n++) {
            const V a = load(weights(n)) * T(LOG2E);
            for (int t = from; t <= steps; t++) ready[t * N + n] = exp2<T>(delta[t] * a);
            if (s.given_gap) ready[(CHUNK + 1) * N + n] = exp2<T>((gap_size < 0 ? V{} : gap_size) * a);
        }
    }

    // What one direction makes of the tile.
    void enter(int64_t i) {
        const Walk& walk = walks[i];
        const V skip = load(weights(N));
        for (int t = 0; t < steps; t++) {
            u[t] = read(s.u, set, walk.cell[t]);
            time[t] = delta[t + 1];
            if (walk.gap[t]) time[t] += T(walk.gap[t]) * (gap_size < 0 ? delta[t] : gap_size);
            if (s.gap_time.data) time[t] += read(s.gap_time, r0 + i, t0 + t);
            input[t] = delta[t + 1] * u[t];
            y[t] = skip * u[t];
        }
    }

    // The decays of G states at step t: those that are ready, times the power for the gap before it.
    INLINE void look_up(int t, int gap, int64_t n0, V* to) {
        const V *here = &ready[(t + 1) * N + n0], *given = &ready[(CHUNK + 1) * N + n0];
        for (int n = 0; n < G; n++) to[n] = here[n];
        if (gap == 0) return;
        if (gap > FAR) {
            for (int n = 0; n < G; n++) to[n] = exp2<T>(time[t] * T(LOG2E) * load(weights(n0 + n)));
            return;
        }
        V base[G];
        for (int n = 0; n < G; n++) base[n] = s.given_gap ? (gap_size < 0 ? here[n - N] : given[n]) : here[n - N];
        for (; gap > 1; gap >>= 1)
            for (int n = 0; n < G; n++) to[n] *= gap & 1 ? base[n] : V{} + 1, base[n] *= base[n];
        for (int n = 0; n < G; n++) to[n] *= base[n];
    }

    // Run G states through a chunk: h = 2^(time A log2 e) h + input B, y += C h. KEEP leaves states in the tile and
    // decays, unless they are ready anyway.
    template <bool SHARED, bool KEEP> void advance(int64_t i, int64_t n0, const T* before, T* after) {
        const T *B_t = &B[i * CHUNK * N + n0], *C_t = &C[n0];
        const int* gap = walks[i].gap;
        const bool as_ready = SHARED && !s.gap;
        V a[G], h[G], factor[G];
        for (int n = 0; n < G; n++) a[n] = load(weights(n0 + n)), h[n] = load(before + n * P);
        if (KEEP) for (int n = 0; n < G; n++) states[0][n] = h[n];
        for (int t = 0; t < steps; t++, B_t += N, C_t += N) {
            const V exponent = time[t] * T(LOG2E), in = input[t];
            V out = y[t];
            if (SHARED) look_up(t, gap[t], n0, factor);
#pragma GCC unroll 8
            for (int n = 0; n < G; n++) {
                if (!SHARED) factor[n] = exp2<T>(exponent * a[n]);
                h[n] = factor[n] * h[n] + in * B_t[n];
                if (KEEP && !as_ready) decay[t][n] = factor[n];
                if (KEEP) states[t + 1][n] = h[n];
                else out += h[n] * C_t[n];
            }
            y[t] = out;
        }
        if (after) for (int n = 0; n < G; n++) store(after + n * P, h[n]);
    }

    // Walk G states back through a chunk. With h' = e h + input B, y = C h' and e = exp(time A) at each step:
    //   g  = dh' + dy C        the gradient of h', from the steps after it (dh) and from y
    //   dC += dy h',  dB += g input,  dinput += g B,  dh = g e
    //   e h g                  that of time A: dtime += (e h g) A,  dA += (e h g) time
    // sum_B and sum_C keep a vector of channels per step and state; reduce() sums up its lanes after the last channels.
    void retreat(int64_t i, int64_t n0) {
        const int64_t row = shared && !s.gap ? N : G;
        const V* decays = shared && !s.gap ? &ready[N + n0] : decay[0];
        V a[G], dh[G], dA[G];
        for (int n = 0; n < G; n++)
            a[n] = load(weights(n0 + n)), dh[n] = load(carry(i, n0 + n)), dA[n] = load(sums(n0 + n));
        for (int t = steps - 1; t >= 0; t--) {
            const V grad = dy[t], in = input[t], elapsed = time[t];
            const T *B_t = &B[(i * CHUNK + t) * N + n0], *C_t = &C[t * N + n0];
            V *to_B = &sum_B[(i * CHUNK + t) * N + n0], *to_C = &sum_C[t * N + n0];
            V din = dinput[t], dt = dtime[t];
#pragma GCC unroll 8
            for (int n = 0; n < G; n++) {
                V g = dh[n] + grad * C_t[n];
                to_C[n] += grad * states[t + 1][n];
                to_B[n] += g * in;
                din += g * B_t[n];
                dh[n] = g * decays[t * row + n];
                g = dh[n] * states[t][n];  // gradient of the exponent time * A
                dt += g * a[n];
                dA[n] += g * elapsed;
            }
            dinput[t] = din, dtime[t] = dt;
        }
        for (int n = 0; n < G; n++) store(carry(i, n0 + n), dh[n]), store(sums(n0 + n), dA[n]);
    }

    void forward() {
        for (r0 = 0; r0 < s.directions; r0 += s.together)
            for (int64_t c = 0; c < chunks; c++) {
                begin(c);
                for (d = first; d < last; d += W) {
                    fill(false);
                    for (int64_t i = 0; i < s.together; i++) {
                        T* h = saved(i, c);
                        enter(i);
                        for (int64_t n = 0; n < N; n += G) {
                            T* after = c + 1 < chunks ? h + s.saved_chunk + n * P : nullptr;
                            if (shared) advance<true, false>(i, n, h + n * P, after);
                            else advance<false, false>(i, n, h + n * P, after);
                        }
                        for (int t = 0; t < steps; t++) write(s.total, 0, walks[i].cell[t], y[t], s.directions > 1);
                    }
                }
            }
        for (int64_t t = 0; s.z.data && t < s.length; t++)
            for (d = first; d < last; d += W) {
                const V z = read(s.z, 0, t);
                write(s.out, 0, t, read(s.total, 0, t) * z * sigmoid<T>(z));
            }
    }

    void backward() {
        sum_B.assign(s.together * CHUNK * N, V{}), sum_C.assign(CHUNK * N, V{});
        for (int64_t t = 0; s.z.data && t < s.length; t++)
            for (d = first; d < last; d += W) {
                const V z = read(s.z, 0, t), gate = sigmoid<T>(z), grad = read(s.grad_out, 0, t);
                write(s.dy, 0, t, grad * z * gate);
                write(s.dz, 0, t, grad * read(s.total, 0, t) * gate * (1 + z * (1 - gate)));
            }
        for (r0 = 0; r0 < s.directions; r0 += s.together)
            for (int64_t c = chunks - 1; c >= 0; c--) {
                begin(c);
                for (d = first; d < last; d += W) backward_tile(c);
                reduce();
            }
    }

    void backward_tile(int64_t c) {
        V bias = load(sums(N + 1));
        fill(true);
        for (int t = 0; t < steps; t++) ddelta[t] = V{};
        ddelta[steps] = load(carry(0, N));  // from the gap after this chunk, which ended with the delta of its last step
        // The states of a group are made again from those before the chunk, with what they decayed by, then walked back.
        for (int64_t i = 0; i < s.together; i++) {
            enter(i);
            for (int t = 0; t < steps; t++) {
                dy[t] = read(s.z.data ? s.dy : s.grad_out, 0, walks[i].cell[t]);
                dinput[t] = dtime[t] = V{};
            }
            for (int64_t n = 0; n < N; n += G) {
                if (shared) advance<true, true>(i, n, saved(i, c) + n * P, nullptr);
                else advance<false, true>(i, n, saved(i, c) + n * P, nullptr);
                retreat(i, n);
            }
            leave(i);
        }
        for (int t = 1; t <= steps; t++) {
            if (s.softplus) ddelta[t] *= slope[t];
            bias += ddelta[t];
            write(s.ddelta, set, walks[0].place[t], ddelta[t], adds);
        }
        store(carry(0, N), ddelta[0]), store(sums(N + 1), bias);  // row 0 goes to the chunk before, in place of a step
    }

    // Gradients of what one direction made of the tile.
    void leave(int64_t i) {
        const V skip = load(weights(N));
        V dskip = load(sums(N)), dgap = load(sums(N + 2));
        for (int t = 0; t < steps; t++) {
            ddelta[t + 1] += dinput[t] * u[t] + dtime[t];
            if (walks[i].gap[t]) {
                const V passed = T(walks[i].gap[t]) * dtime[t];
                ddelta[t] += gap_size < 0 ? passed : V{};
                dgap += gap_size < 0 ? V{} : passed;
            }
            dskip += dy[t] * u[t];
            write(s.du, set, walks[i].cell[t], dinput[t] * delta[t + 1] + skip * dy[t], s.inputs < s.directions);
            if (s.gap_time.data) write(s.dgap_time, r0 + i, t0 + t, dtime[t]);
        }
        store(sums(N), dskip), store(sums(N + 2), dgap);
    }

    // Sum the lanes of each vector into dB, dC and the gradient of direction_B, and clear it.
    void reduce() {
        for (int t = 0; t < steps; t++) {
            T *to_B = at(s.dB, set, slab, walks[0].place[t + 1]), *to_C = at(s.dC, set, slab, walks[0].place[t + 1]);
            for (int64_t n = 0; n < s.states; n++) {
                T all = 0;
                for (int64_t i = 0; i < s.together; i++) {
                    const T one = total(sum_B[(i * CHUNK + t) * N + n]);
                    if (s.direction_B) ((T*)s.dmoves)[(slab * s.moves + walks[i].move[t]) * N + n] += one;
                    all += one;
                }
                to_B[n] = all + (adds ? to_B[n] : 0);
                to_C[n] = total(sum_C[t * N + n]) + (adds ? to_C[n] : 0);
            }
        }
        std::memset(sum_B.data(), 0, sum_B.size() * sizeof(V)), std::memset(sum_C.data(), 0, sum_C.size() * sizeof(V));
    }
    static T total(V lanes) {
        T sum = 0;
        for (int i = 0; i < W; i++) sum += lanes[i];
        return sum;
    }
};

template <class T, int G> void run(const Scan& s, bool backward) {
#pragma omp parallel for num_threads(s.threads) if (s.threads > 1) schedule(static)
    for (int64_t i = 0; i < s.batch * s.parts; i++) {
        Worker<T, G> worker(s, i / s.parts, i % s.parts);
        if (backward) worker.backward();
        else worker.forward();
    }
}

template <class T> void run(const Scan& s, bool backward) {
    if (s.padded_states == 1) run<T, 1>(s, backward);
    else if (s.padded_states == 4) run<T, 4>(s, backward);
    else run<T, GROUP>(s, backward);
}

// 0 where every value is at least 0 and below the limit, else 1; 2 where a row has one twice, if that matters.
template <class I> int check_index(const I* index, int64_t rows, int64_t length, int64_t limit, bool once) {
    std::vector<int64_t> seen(once ? limit : 0, -1);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t t = 0; t < length; t++) {
            const int64_t value = index[row * length + t];
            if (value < 0 || value >= limit) return 1;
            if (once && seen[value] == row) return 2;
            if (once) seen[value] = row;
        }
    return 0;
}

extern "C" int check_index(const void* index, int64_t wide, int64_t rows, int64_t length, int64_t limit, int64_t once) {
    return wide ? check_index((const int64_t*)index, rows, length, limit, once)
                : check_index((const int32_t*)index, rows, length, limit, once);
}

extern "C" void scan_float(const Scan* s, int backward) { run<float>(*s, backward); }
extern "C" void scan_double(const Scan* s, int backward) { run<double>(*s, backward); }
