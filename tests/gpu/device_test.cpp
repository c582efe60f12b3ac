// Memory of the GPU, copies, and capture and replay.
#include "core/device.h"

#include "core/cuda_device.h"
#include "core/graph.h"
#include "core/kernels/elementwise.h"
#include "core/kernels/matmul.h"
#include "tests/gpu/support.h"

namespace pyramoe::gputest {
namespace {

Exit exit_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.code();
  }
  return Exit::done;
}

TEST(Device, NamesAreParsed) {
  SKIP_WITHOUT_GPU();
  EXPECT_EQ(parse_device("auto"), kGpu);
  EXPECT_EQ(parse_device("cuda"), kGpu);
  EXPECT_EQ(parse_device("cuda:0"), kGpu);
  EXPECT_EQ(parse_device("cpu"), kCpu);
  for (const char* bad : {"cuda:63", "cuda:", "cuda:x", "cuda:-1", "gpu", ""}) {
    EXPECT_EQ(exit_of([&] { parse_device(bad); }), Exit::config) << bad;
  }
}

TEST(Device, CopiesKeepEveryByte) {
  SKIP_WITHOUT_GPU();
  for (const int64_t n : {1, 7, 1000, 300000, 5000001}) {
    const Tensor x = normal({n});
    expect_same_bits(x, on_gpu(x), "there and back");
    expect_same_bits(x, on_gpu(x).clone(), "within the device");
  }
}

// More small copies than the pinned ring holds, while the device is behind.
TEST(Device, SmallCopiesDoNotOvertakeEachOther) {
  SKIP_WITHOUT_GPU();
  constexpr int64_t kCount = 64, kSize = 200000;
  Tensor a = on_gpu(normal({2048, 2048})), b = empty_like(a);
  for (int i = 0; i < 20; ++i) kernels::matmul(a, false, a, false, false, b);
  Tensors sent, seen;
  for (int64_t i = 0; i < kCount; ++i) {
    sent.push_back(Tensor::full({kSize}, DType::f32, static_cast<double>(i)));
    seen.push_back(on_gpu(sent.back()));
  }
  for (size_t i = 0; i < sent.size(); ++i) expect_same_bits(sent[i], seen[i], cat("copy ", i));
}

TEST(Device, BytesAreCounted) {
  SKIP_WITHOUT_GPU();
  const int64_t before = device_bytes(kGpu);
  reset_device_peak_bytes(kGpu);
  {
    const Tensor x({1000}, DType::f32, kGpu);
    EXPECT_EQ(device_bytes(kGpu), before + 4000);
  }
  EXPECT_EQ(device_bytes(kGpu), before);
  EXPECT_EQ(device_peak_bytes(kGpu), before + 4000);
}

TEST(Device, TooMuchMemoryIsAClearError) {
  SKIP_WITHOUT_GPU();
  try {
    const Tensor x({int64_t{1} << 42}, DType::f32, kGpu);
    FAIL() << "16 TiB were found";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::memory);
    EXPECT_NE(std::string(error.what()).find("train.micro_batch"), std::string::npos);
  }
  const Tensor x = on_gpu(normal({100}));  // and the device still works
  expect_same_bits(normal({100}), x);
}

TEST(Device, TheHostCannotReadDeviceMemory) {
  SKIP_WITHOUT_GPU();
  const Tensor x({4}, DType::f32, kGpu);
  EXPECT_EQ(exit_of([&] { x.data<float>(); }), Exit::bug);
}

// y = 3 x w + x w, with temporaries.
Tensor work(const Tensor& x, const Tensor& w) {
  Tensor y = empty_like(x), z = empty_like(x), sum = empty_like(x);
  kernels::matmul(x, false, w, false, false, y);
  kernels::scale(y, 3, z);
  kernels::add(y, z, sum);
  return sum;
}

TEST(Graph, ReplayIsTheEagerRunOnNewInputs) {
  SKIP_WITHOUT_GPU();
  const Tensor w = on_gpu(normal({256, 256})), x = on_gpu(normal({256, 256}, DType::f32, 1, 2));
  work(x, w);
  Tensor out;
  Graph graph;
  graph.capture(kGpu, 1 << 20, [&] { out = work(x, w); });
  for (uint64_t seed = 5; seed < 8; ++seed) {
    const Tensor fresh = normal({256, 256}, DType::f32, 1, seed);
    x.copy_from(fresh);
    poison(out);
    graph.replay();
    const Tensor eager = work(x, w);
    expect_same_bits(eager, out, cat("seed ", seed));
  }
}

TEST(Graph, MemoryIsReusedWithinACapture) {
  SKIP_WITHOUT_GPU();
  const Tensor w = on_gpu(normal({512, 512})), x = on_gpu(normal({512, 512}));
  work(x, w);
  reset_device_peak_bytes(kGpu);
  const int64_t before = device_bytes(kGpu);
  Graph graph;
  graph.capture(kGpu, 1 << 20, [&] {
    Tensor y = work(x, w);
    for (int i = 0; i < 50; ++i) y = work(y, w);
  });
  EXPECT_LE(device_peak_bytes(kGpu) - before, 5 * x.bytes());
  graph.replay();
  device_synchronize(kGpu);
}

TEST(Graph, HostReadsInACaptureAreRefusedAndLeaveTheDeviceUsable) {
  SKIP_WITHOUT_GPU();
  const Tensor w = on_gpu(normal({64, 64})), x = on_gpu(normal({64, 64}));
  const Tensor eager = work(x, w);
  Graph graph;
  EXPECT_EQ(exit_of([&] { graph.capture(kGpu, 0, [&] { work(x, w).to_vector(); }); }), Exit::bug);
  EXPECT_EQ(exit_of([&] { graph.capture(kGpu, 0, [&] { on_gpu(normal({3})); }); }), Exit::bug);
  EXPECT_FALSE(graph.captured());
  expect_same_bits(eager, work(x, w));
}

TEST(Graph, ATensorOutlivesItsGraph) {
  SKIP_WITHOUT_GPU();
  const Tensor w = on_gpu(normal({64, 64})), x = on_gpu(normal({64, 64}));
  Tensor eager = work(x, w), out;
  {
    Graph graph;
    graph.capture(kGpu, 0, [&] {
      out = work(x, w);
      eager = eager.clone();  // frees memory of before the capture
      kernels::scale(out, 1, eager);
    });
    graph.replay();
  }
  expect_same_bits(work(x, w), out);
  expect_same_bits(eager, out);
}

TEST(Graph, OnTheCpuReplayCallsTheFunction) {
  int calls = 0;
  Graph graph;
  graph.capture(kCpu, 0, [&] { ++calls; });
  EXPECT_EQ(calls, 0);
  graph.replay();
  graph.replay();
  EXPECT_EQ(calls, 2);
}

}  // namespace
}  // namespace pyramoe::gputest
