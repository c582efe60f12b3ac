#include "dist/flight_record.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>

#include "core/error.h"
#include "core/file.h"

namespace pyramoe::dist {
namespace {

constexpr char kMagic[8] = {'p', 'm', 'f', 'l', 'y', '0', '0', '2'};

double wall_time() {
  timeval now{};
  ::gettimeofday(&now, nullptr);
  return static_cast<double>(now.tv_sec) + 1e-6 * static_cast<double>(now.tv_usec);
}

template <size_t N>
void put_text(char (&to)[N], const std::string& text) {
  std::memset(to, 0, N);
  std::memcpy(to, text.data(), std::min(text.size(), N - 1));
}

template <size_t N>
std::string get_text(const char (&from)[N]) {
  return std::string(from, ::strnlen(from, N));
}

std::string time_of_day(double seconds) {
  const auto whole = static_cast<time_t>(seconds);
  tm parts{};
  ::localtime_r(&whole, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%H:%M:%S", &parts);
  return text;
}

}  // namespace

struct FlightRecord::Page {
  char magic[8];
  int32_t rank, ranks;
  int64_t process;
  int32_t ended, told;
  double paused, alive, patience;
  int64_t waiting;
  char phase[24];
  FlightEntry entries[kEntries];
};

FlightRecord::FlightRecord(int rank, int ranks) : page_(new Page{}) {
  std::memcpy(page_->magic, kMagic, sizeof kMagic);
  page_->rank = rank;
  page_->ranks = ranks;
  page_->process = ::getpid();
  put_text(page_->phase, "init");
}

FlightRecord::~FlightRecord() {
  if (mapped_) {
    ::munmap(page_, sizeof(Page));
  } else {
    delete page_;
  }
}

void FlightRecord::open(const std::string& run_dir) {
  make_folders(run_dir + "/flight", Exit::config);
  char name[32];
  std::snprintf(name, sizeof name, "/flight/rank_%04d", page_->rank);
  const std::string path = run_dir + name;
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0 || ::ftruncate(fd, sizeof(Page)) != 0) {
    if (fd >= 0) ::close(fd);
    fail(Exit::config, path, ": ", std::strerror(errno), "; choose a run.dir that can be written");
  }
  void* memory = ::mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ::close(fd);
  if (memory == MAP_FAILED) fail(Exit::config, path, ": ", std::strerror(errno));
  Page* page = static_cast<Page*>(memory);
  const std::lock_guard lock(watched_);
  std::memcpy(page, page_, sizeof(Page));
  if (mapped_) {
    ::munmap(page_, sizeof(Page));
  } else {
    delete page_;
  }
  page_ = page;
  mapped_ = true;
}

void FlightRecord::close() { page_->ended = 1; }
volatile int32_t* FlightRecord::told() { return &page_->told; }
void FlightRecord::set_paused(double seconds) {
  const std::lock_guard lock(watched_);
  page_->paused = seconds;
}
void FlightRecord::set_alive(double patience) {
  const std::lock_guard lock(watched_);
  page_->patience = patience;
  page_->alive = wall_time();
}
void FlightRecord::set_phase(const char* phase) { put_text(page_->phase, phase); }

int64_t FlightRecord::begin(const char* op, const std::string& group, int64_t sequence,
                            int64_t bytes, int ranks) {
  const int64_t number = next_++;
  FlightEntry& entry = page_->entries[number % kEntries];
  entry.number = 0;
  entry.sequence = sequence;
  entry.started = wall_time();
  entry.finished = 0;
  entry.bytes = bytes;
  entry.ranks = ranks;
  put_text(entry.op, op);
  put_text(entry.group, group);
  entry.number = number;
  return number;
}

void FlightRecord::end(int64_t number) {
  FlightEntry& entry = page_->entries[number % kEntries];
  if (entry.number == number) entry.finished = wall_time();
}

FlightEntry FlightRecord::entry(int64_t number) const { return page_->entries[number % kEntries]; }

void FlightRecord::set_waiting(int64_t number) {
  if (number == waiting_.load(std::memory_order_relaxed)) return;
  since_ = wall_time();
  waiting_ = number;
  page_->waiting = number;
}

int64_t FlightRecord::waiting(double& since) const {
  since = since_;
  return waiting_;
}

std::vector<FlightFile> read_flight(const std::string& run_dir) {
  std::vector<FlightFile> files;
  const std::string folder = run_dir + "/flight";
  if (!is_folder(folder)) return files;
  for (const std::string& name : list_folder(folder)) {
    if (name.rfind("rank_", 0) != 0) continue;
    const std::string bytes = read_file(folder + "/" + name, 1 << 20);
    FlightRecord::Page page;
    if (bytes.size() != sizeof page) continue;
    std::memcpy(&page, bytes.data(), sizeof page);
    if (std::memcmp(page.magic, kMagic, sizeof kMagic) != 0) continue;
    FlightFile file;
    file.rank = page.rank;
    file.ranks = page.ranks;
    file.process = page.process;
    file.ended = page.ended != 0;
    file.told = page.told != 0;
    file.paused = page.paused;
    file.alive = page.alive;
    file.patience = page.patience;
    file.waiting = page.waiting != 0;
    file.phase = get_text(page.phase);
    for (const FlightEntry& entry : page.entries) {
      if (entry.number > 0) file.entries.push_back(entry);
    }
    std::sort(file.entries.begin(), file.entries.end(),
              [](const FlightEntry& a, const FlightEntry& b) { return a.number < b.number; });
    files.push_back(std::move(file));
  }
  return files;
}

std::string describe(const FlightEntry& entry) {
  return cat(get_text(entry.op), " of ", get_text(entry.group), ", number ", entry.sequence, ", ",
             entry.bytes, " bytes, ", entry.ranks, " ranks");
}

namespace {

// Seconds for which a process did not run. Where it was ended before its own watchdog looked again,
// the others' watchdogs tell.
double standstill(const FlightFile& file, double newest) {
  if (file.paused > 0 || file.ended || file.alive == 0) return file.paused;
  const double silent = newest - file.alive;
  return silent > file.patience ? silent : 0;
}

// Who failed first: the process that stood still the longest (a watchdog may be held up too, where
// a disk is slow or the others are ended one by one); else one that nobody told to end, where
// others were told; else the one that has begun the fewest collectives, and of equal ones one that
// does not wait.
bool before(const FlightFile& a, const FlightFile& b, double newest) {
  const double a_stood = standstill(a, newest), b_stood = standstill(b, newest);
  if (std::abs(a_stood - b_stood) > std::max(a.patience, b.patience) / 4) return a_stood > b_stood;
  if (a.told != b.told) return !a.told;
  const int64_t n = a.entries.back().number, m = b.entries.back().number;
  if (n != m) return n < m;
  return !a.waiting && b.waiting;
}

}  // namespace

std::string describe_flight(const std::vector<FlightFile>& files) {
  if (std::all_of(files.begin(), files.end(), [](const FlightFile& f) { return f.ended; })) {
    return "";
  }
  std::string text = "the last run in this folder did not end in order:\n";
  const FlightFile* first = nullptr;
  double newest = 0;
  for (const FlightFile& file : files) newest = std::max(newest, file.alive);
  for (const FlightFile& file : files) {
    if (file.entries.empty()) continue;
    const FlightEntry& last = file.entries.back();
    const bool done = last.finished > 0;
    const double stood = standstill(file, newest);
    text +=
        cat("  rank ", file.rank, " (process ", file.process, "), in ", file.phase, ", ",
            done           ? "after "
            : file.waiting ? "waiting in "
                           : "in ",
            describe(last), ", since ", time_of_day(done ? last.finished : last.started),
            stood > 0 ? cat("; stood still for ", std::round(10 * stood) / 10, " s") : "", "\n");
    if (!first || before(file, *first, newest)) first = &file;
  }
  if (first && files.size() > 1) {
    text += cat("  first to fall silent: rank ", first->rank, ", in ", first->phase, "\n");
  }
  return text;
}

}  // namespace pyramoe::dist
