// Classify raw pixels with an artifact of `danlu export`, by the C API of ONNX Runtime alone.
//
//   g++ -std=c++17 -I INCLUDE classify.cpp -o classify LIBRARY     (see docs: deploy)
//   ./classify model.onnx HEIGHT WIDTH CHANNELS < pixels           uint8, row by row, [height, width, channels]
//
// Resizing, cropping and normalising are inside the graph: any height and width will do. Prints "index probability".
#include <onnxruntime_c_api.h>

#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <iostream>
#include <vector>

static const OrtApi *api;

static void check(OrtStatus *status) {
    if (!status) return;
    std::fprintf(stderr, "%s\n", api->GetErrorMessage(status));
    std::exit(1);
}

int main(int count, char **words) {
    if (count != 5) return std::fprintf(stderr, "usage: classify MODEL HEIGHT WIDTH CHANNELS < pixels\n"), 2;
    api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (!api) return std::fprintf(stderr, "the library is older than the header\n"), 1;
    const int64_t shape[] = {1, std::atoll(words[2]), std::atoll(words[3]), std::atoll(words[4])};
    std::vector<char> pixels{std::istreambuf_iterator<char>(std::cin), {}};
    if (pixels.empty() || pixels.size() != size_t(shape[1] * shape[2] * shape[3]))
        return std::fprintf(stderr, "%zu bytes do not fit height, width and channels\n", pixels.size()), 2;

    OrtEnv *env;
    OrtSessionOptions *options;
    OrtSession *session;
    check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "classify", &env));
    check(api->DisableTelemetryEvents(env));
    check(api->CreateSessionOptions(&options));
    check(api->SetIntraOpNumThreads(options, 1));
    check(api->CreateSession(env, words[1], options, &session));

    OrtMemoryInfo *memory;
    OrtValue *input, *output = nullptr;
    check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    check(api->CreateTensorWithDataAsOrtValue(memory, pixels.data(), pixels.size(), shape, 4,
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &input));
    const char *given[] = {"pictures"}, *wanted[] = {"probabilities"};
    check(api->Run(session, nullptr, given, &input, 1, wanted, 1, &output));

    OrtTensorTypeAndShapeInfo *info;
    size_t classes;
    float *probabilities;
    check(api->GetTensorTypeAndShape(output, &info));
    check(api->GetTensorShapeElementCount(info, &classes));
    check(api->GetTensorMutableData(output, reinterpret_cast<void **>(&probabilities)));
    for (size_t index = 0; index < classes; ++index) std::printf("%zu %.7f\n", index, probabilities[index]);
    api->ReleaseTensorTypeAndShapeInfo(info), api->ReleaseValue(output), api->ReleaseValue(input);
    api->ReleaseMemoryInfo(memory), api->ReleaseSession(session), api->ReleaseSessionOptions(options);
    api->ReleaseEnv(env);
}
