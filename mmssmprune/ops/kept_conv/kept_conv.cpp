// Depthwise convolution of tokens at known cells of a grid, on a CPU; Python calls it through ctypes.
//
// A map of the padded grid says for each cell where its token's channels are; cells without a token, and those off the
// grid, point to zeros. So the inner loops have no condition: a group of taps along a kernel row stays in registers, with
// VECTORS vectors of channels each, while a chunk of outputs passes by.
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

constexpr int CHUNK = 32;                            // outputs that pass by a group of taps
constexpr int VECTORS = VECTOR_BYTES == 64 ? 3 : 1;  // of channels, in registers for each tap

struct View {  // (batch, token, channel): strides in elements, channels are adjacent
    void* data;
    int64_t batch, token;
};

struct Conv {  // as in cpp.py
    View x, out, grad_out;             // grad_out is null in a forward pass
    const int32_t* slot;               // (batch, height * width)
    const int64_t* out_cells;          // (batch, outputs)
    void *weight, *bias;               // (channels, kernel_height * kernel_width) and (channels); in backward the gradients
    void* rows;                        // (kernel_height * kernel_width + 2, padded): taps, bias and zeros, channels last
    const void** map;                  // (batch, height + kernel_height - 1, width + kernel_width - 1)
    int64_t batch, tokens, outputs, channels, padded, height, width, kernel_height, kernel_width, top, left, threads;
};

template <class T> struct Lanes { typedef T Vec __attribute__((vector_size(VECTOR_BYTES))); };
template <class T> using Vec = typename Lanes<T>::Vec;
template <class T> constexpr int width = VECTOR_BYTES / sizeof(T);

#define INLINE static inline __attribute__((always_inline))

template <class T> INLINE Vec<T> load(const T* from) { Vec<T> v; std::memcpy(&v, from, sizeof v); return v; }
template <class T> INLINE void store(T* to, Vec<T> v) { std::memcpy(to, &v, sizeof v); }

// PART: only the first `lanes` channels of a vector exist.
template <class T, bool PART> INLINE Vec<T> load(const T* from, int lanes) {
    if (!PART) return load(from);
    Vec<T> v = {};
    std::memcpy(&v, from, lanes * sizeof(T));
    return v;
}

struct Chunk {  // neighbouring outputs of one image
    int64_t image, first, row[CHUNK];
    const void** corner[CHUNK];  // where the map has the neighbour under the first tap
    int count;
};

INLINE Chunk chunk_of(const Conv& s, int64_t image, int64_t first) {
    const int64_t across = s.width + s.kernel_width - 1, down = s.height + s.kernel_height - 1;
    Chunk chunk;
    chunk.image = image, chunk.first = first;
    chunk.count = s.outputs - first < CHUNK ? int(s.outputs - first) : CHUNK;
    for (int k = 0; k < chunk.count; k++) {
        const uint64_t cell = s.out_cells[image * s.outputs + first + k], cells = s.height * s.width;
        chunk.row[k] = cell < cells ? cell / s.width : s.height + s.kernel_height;  // no such cell: no neighbours
        chunk.corner[k] = s.map + (image * down + chunk.row[k]) * across + cell % s.width;
    }
    return chunk;
}

// Whether kernel row i lies on the grid for output k.
INLINE bool on_grid(const Conv& s, const Chunk& chunk, int k, int64_t i) {
    return uint64_t(chunk.row[k] + s.top + i) < uint64_t(s.height) && chunk.row[k] < s.height;
}

// The rows of taps and bias from weight and bias, or zeros where they are to be summed up, and the row of zeros.
template <class T> void fill_rows(const Conv& s) {
    const int64_t taps = s.kernel_height * s.kernel_width;
    const T *weight = (const T*)s.weight, *bias = (const T*)s.bias;
    T* rows = (T*)s.rows;
    std::memset(rows, 0, (taps + 2) * s.padded * sizeof(T));
    if (s.grad_out.data) return;
    for (int64_t c = 0; c < s.channels; c++)
        for (int64_t tap = 0; tap < taps; tap++) rows[tap * s.padded + c] = weight[c * taps + tap];
    if (bias) std::memcpy(rows + taps * s.padded, bias, s.channels * sizeof(T));
}

// Gradients of weight and bias from the rows that hold their sums.
template <class T> void empty_rows(const Conv& s) {
    const int64_t taps = s.kernel_height * s.kernel_width;
    const T* rows = (const T*)s.rows;
    for (int64_t c = 0; c < s.channels; c++)
        for (int64_t tap = 0; tap < taps; tap++) ((T*)s.weight)[c * taps + tap] = rows[tap * s.padded + c];
    std::memcpy(s.bias, rows + taps * s.padded, s.channels * sizeof(T));
}

// Point each cell of the padded map to its token, or to the row of zeros.
template <class T> void fill_map(const Conv& s) {
    const int64_t across = s.width + s.kernel_width - 1, down = s.height + s.kernel_height - 1;
    const T* zeros = (const T*)s.rows + (s.kernel_height * s.kernel_width + 1) * s.padded;
#pragma omp parallel for num_threads(s.threads) if (s.threads > 1) schedule(static)
    for (int64_t line = 0; line < s.batch * down; line++) {
        const int64_t image = line / down, row = line % down + s.top;
        const void** map = s.map + line * across;
        const T* x = (const T*)s.x.data + image * s.x.batch;
        for (int64_t at = 0; at < across; at++) {
            const int64_t column = at + s.left;
            map[at] = zeros;
            if (uint64_t(row) >= uint64_t(s.height) || uint64_t(column) >= uint64_t(s.width)) continue;
            const int64_t token = s.slot[(image * s.height + row) * s.width + column];
            if (uint64_t(token) < uint64_t(s.tokens)) map[at] = x + token * s.x.token;
        }
    }
}

// Outputs of a chunk, V vectors of channels from c on.
template <class T, int G, int V, bool PART> void convolve(const Conv& s, const Chunk& chunk, int64_t c) {
    constexpr int W = width<T>;
    const int64_t across = s.width + s.kernel_width - 1;
    const int lanes = PART ? int(s.channels - c) : W;
    T* out = (T*)s.out.data + chunk.image * s.out.batch + chunk.first * s.out.token + c;
    const T* bias = (const T*)s.rows + s.kernel_height * s.kernel_width * s.padded;
    T sums[CHUNK][V * W];
    for (int k = 0; k < chunk.count; k++)
        for (int v = 0; v < V; v++) store(sums[k] + v * W, load(bias + c + v * W));
    for (int64_t i = 0; i < s.kernel_height; i++)
        for (int64_t j = 0; j < s.kernel_width; j += G) {
            Vec<T> weight[G][V];
            for (int g = 0; g < G; g++)
                for (int v = 0; v < V; v++)
                    weight[g][v] = load((const T*)s.rows + (i * s.kernel_width + j + g) * s.padded + c + v * W);
            for (int k = 0; k < chunk.count; k++) {
                if (!on_grid(s, chunk, k, i)) continue;
                const void** map = chunk.corner[k] + i * across + j;
                Vec<T> sum[V];
                for (int v = 0; v < V; v++) sum[v] = load(sums[k] + v * W);
#pragma GCC unroll 8
                for (int g = 0; g < G; g++)
                    for (int v = 0; v < V; v++)
                        sum[v] += weight[g][v] * load<T, PART>((const T*)map[g] + c + v * W, lanes);
                for (int v = 0; v < V; v++) store(sums[k] + v * W, sum[v]);
            }
        }
    for (int k = 0; k < chunk.count; k++)
        std::memcpy(out + k * s.out.token, sums[k], PART ? lanes * sizeof(T) : sizeof sums[k]);
}

// What a chunk adds to the gradients of weight and bias, V vectors of channels from c on.
template <class T, int G, int V, bool PART> void correlate(const Conv& s, const Chunk& chunk, int64_t c) {
    constexpr int W = width<T>;
    const int64_t across = s.width + s.kernel_width - 1;
    const int lanes = PART ? int(s.channels - c) : W;
    const T* grad = (const T*)s.grad_out.data + chunk.image * s.grad_out.batch + chunk.first * s.grad_out.token + c;
    for (int v = 0; v < V; v++) {
        Vec<T> sum = {};
        for (int k = 0; k < chunk.count; k++) sum += load<T, PART>(grad + k * s.grad_out.token + v * W, lanes);
        T* to = (T*)s.rows + s.kernel_height * s.kernel_width * s.padded + c + v * W;
        store(to, load(to) + sum);
    }
    for (int64_t i = 0; i < s.kernel_height; i++)
        for (int64_t j = 0; j < s.kernel_width; j += G) {
            Vec<T> sum[G][V] = {};
            for (int k = 0; k < chunk.count; k++) {
                if (!on_grid(s, chunk, k, i)) continue;
                const void** map = chunk.corner[k] + i * across + j;
                Vec<T> y[V];
                for (int v = 0; v < V; v++) y[v] = load<T, PART>(grad + k * s.grad_out.token + v * W, lanes);
#pragma GCC unroll 8
                for (int g = 0; g < G; g++)
                    for (int v = 0; v < V; v++)
                        sum[g][v] += y[v] * load<T, PART>((const T*)map[g] + c + v * W, lanes);
            }
            for (int g = 0; g < G; g++)
                for (int v = 0; v < V; v++) {
                    T* to = (T*)s.rows + (i * s.kernel_width + j + g) * s.padded + c + v * W;
                    store(to, load(to) + sum[g][v]);
                }
        }
}

template <class T, int G, int V, bool PART> INLINE void work(const Conv& s, const Chunk& chunk, int64_t c) {
    if (s.grad_out.data) correlate<T, G, V, PART>(s, chunk, c);
    else convolve<T, G, V, PART>(s, chunk, c);
}

// Channels from c to last, as many vectors at a time as there are.
template <class T, int G> void work(const Conv& s, const Chunk& chunk, int64_t c, int64_t last) {
    constexpr int W = width<T>;
    for (; c + VECTORS * W <= last; c += VECTORS * W) work<T, G, VECTORS, false>(s, chunk, c);
    for (; c + W <= last; c += W) work<T, G, 1, false>(s, chunk, c);
    if (c < last) work<T, G, 1, true>(s, chunk, c);
}

// Threads share the outputs in a forward pass, the channels where it is sums over all outputs that are wanted.
template <class T, int G> void run(const Conv& s) {
    const int64_t chunks = (s.outputs + CHUNK - 1) / CHUNK, vectors = (s.channels + width<T> - 1) / width<T>;
    const bool sums = s.grad_out.data;
    const int64_t parts = !sums ? 1 : vectors < s.threads ? vectors : s.threads;
    const int64_t tasks = sums ? parts : s.batch * chunks;
#pragma omp parallel for num_threads(s.threads) if (s.threads > 1) schedule(static)
    for (int64_t task = 0; task < tasks; task++) {
        const int64_t part = sums ? task : 0, end = vectors * (part + 1) / parts * width<T>;
        const int64_t first = vectors * part / parts * width<T>, last = end < s.channels ? end : s.channels;
        for (int64_t n = sums ? 0 : task; n < (sums ? s.batch * chunks : task + 1); n++)
            work<T, G>(s, chunk_of(s, n / chunks, n % chunks * CHUNK), first, last);
    }
}

template <class T> void run(const Conv& s) {
    const int64_t taps = s.kernel_width;  // in groups that leave none over
    fill_rows<T>(s);
    fill_map<T>(s);
    if (taps % 7 == 0) run<T, 7>(s);
    else if (taps % 5 == 0) run<T, 5>(s);
    else if (taps % 4 == 0) run<T, 4>(s);
    else if (taps % 3 == 0) run<T, 3>(s);
    else if (taps % 2 == 0) run<T, 2>(s);
    else run<T, 1>(s);
    if (s.grad_out.data) empty_rows<T>(s);
}

// Whether slot has the number of each token at the token's cell, and of none elsewhere.
template <class I> bool is_inverse(const int64_t* cells, const I* slot, int64_t batch, int64_t tokens, int64_t grid) {
    int64_t filled = 0;
    for (int64_t image = 0; image < batch; image++, cells += tokens, slot += grid) {
        for (int64_t token = 0; token < tokens; token++)
            if (cells[token] < 0 || cells[token] >= grid || slot[cells[token]] != token) return false;
        for (int64_t cell = 0; cell < grid; cell++) filled += slot[cell] >= 0;
    }
    return filled == batch * tokens;
}

extern "C" int is_inverse(const int64_t* cells, const void* slot, int64_t wide, int64_t batch, int64_t tokens, int64_t grid) {
    return wide ? is_inverse(cells, (const int64_t*)slot, batch, tokens, grid)
                : is_inverse(cells, (const int32_t*)slot, batch, tokens, grid);
}

extern "C" void kept_conv_float(const Conv* s) { run<float>(*s); }
extern "C" void kept_conv_double(const Conv* s) { run<double>(*s); }
