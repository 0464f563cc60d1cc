// For node --import: the clock of this process jumps by so many hours (CLOCK_JUMP_HOURS) when it gets SIGUSR2. What reads Date sees it;
// durations, TLS and the server do not.
const RealDate = Date;
let jump = 0;
const now = () => RealDate.now() + jump;
globalThis.Date = class extends RealDate {
  constructor(...given) {
    super(...(given.length === 0 ? [now()] : given));
  }
  static now() {
    return now();
  }
};
process.on('SIGUSR2', () => {
  jump = 3_600_000 * Number(process.env.CLOCK_JUMP_HOURS ?? 0);
});
