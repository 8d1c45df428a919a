// Mamba's convolution and scan over one sequence; part of body.hpp.
//
// Eight channels are computed together, one time step after another, so a long chunk gives the
// bits that its tokens give one by one.

void convolve(const ConvolutionTask& task) {
  const std::size_t behind = task.taps - 1;
  for (std::size_t c = task.begin; c < task.end; c += kLanes) {
    const std::size_t count = std::min(kLanes, task.channels - c);
    for (std::size_t t = 0; t < task.tokens; ++t) {
      Lanes total = load(task.bias + c);
      for (std::size_t k = 0; k < task.taps; ++k) {
        // The first `behind` inputs come from earlier steps.
        const Lanes x = t + k < behind
                            ? load(task.past + (t + k) * task.padded + c)
                            : load_some(task.in + (t + k - behind) * task.in_stride + c, count);
        total = fma(load(task.weight + k * task.padded + c), x, total);
      }
      store_some(task.out + t * task.out_stride + c, count, Silu::of(total));
    }
    for (std::size_t k = 0; k < behind; ++k) {
      const std::size_t t = task.tokens + k;
      const Lanes x = t < behind
                          ? load(task.past + t * task.padded + c)
                          : load_some(task.in + (t - behind) * task.in_stride + c, count);
      store(task.past + k * task.padded + c, x);
    }
  }
}

void scan(const ScanTask& task) {
  for (std::size_t c = task.begin; c < task.end; c += kLanes) {
    const std::size_t count = std::min(kLanes, task.channels - c);
    float* state = task.state + c * task.states;
    const float* matrix = task.matrix + c * task.states;
    const Lanes skip = load(task.skip + c);
    for (std::size_t t = 0; t < task.tokens; ++t) {
      const Lanes x = load_some(task.in + t * task.in_stride + c, count);
      const Lanes step = softplus(load_some(task.time_step + t * task.time_step_stride + c, count));
      const Lanes stepped = step * x;
      const float* inputs = task.inputs + t * task.parameters_stride;
      const float* outputs = task.outputs + t * task.parameters_stride;
      Lanes y = skip * x;
      for (std::size_t n = 0; n < task.states; ++n) {
        const Lanes decay = exponential(step * load(matrix + n * kLanes));
        const Lanes h = fma(decay, load(state + n * kLanes), stepped * broadcast(inputs[n]));
        store(state + n * kLanes, h);
        y = fma(h, broadcast(outputs[n]), y);
      }
      const Lanes gate = Silu::of(load_some(task.gate + t * task.gate_stride + c, count));
      store_some(task.out + t * task.out_stride + c, count, y * gate);
    }
  }
}
