/**
 * Symbol.dispose and Symbol.asyncDispose, where the realm lacks them: Jest 29, and what Vitest runs in vm contexts. `using` needs both.
 */
for (const name of ['dispose', 'asyncDispose'] as const) {
  if (!(name in Symbol)) Object.defineProperty(Symbol, name, { value: Symbol(`Symbol.${name}`) });
}

export {};
