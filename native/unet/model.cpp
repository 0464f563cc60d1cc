#include "unet/model.h"

namespace phx {

Parameter Model::add(const std::string& name, std::vector<int> shape) {
  Parameter p{count_, shape[0], 1, 1, 1};
  if (shape.size() == 1) p.n = 1, p.c = shape[0];
  if (shape.size() >= 2) p.c = shape[1];
  if (shape.size() == 4) p.h = shape[2], p.w = shape[3];
  parameters_.push_back({name, p, std::move(shape)});
  count_ += p.count();
  return p;
}

}  // namespace phx
