// A block's begin and end for every asynchronous part.
#include "async.h"

namespace phoenix::simt {

void tensor_block_begin();
void tensor_thread_end();
void mbarrier_block_begin();
void mbarrier_block_end();
void tma_block_begin();
void tma_block_end();
void wgmma_block_begin();
void wgmma_block_end();

void async_thread_end() { tensor_thread_end(); }
void async_block_begin() {
  tensor_block_begin();
  mbarrier_block_begin();
  tma_block_begin();
  wgmma_block_begin();
}
void async_block_end() {
  wgmma_block_end();
  tma_block_end();
  mbarrier_block_end();
}

}  // namespace phoenix::simt
