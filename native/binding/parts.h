// The parts of the binding: each adds its classes and functions to the addon's exports.
#pragma once
#include "binding/call.h"

namespace phx {

void add_vector(Napi::Env env, Napi::Object exports);   // createVector
void add_session(Napi::Env env, Napi::Object exports);  // createImages, createSession, createAbort
void add_ops(Napi::Env env, Napi::Object exports);      // op, timeOp
void add_metrics(Napi::Env env, Napi::Object exports);

}  // namespace phx
