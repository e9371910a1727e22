// As much of YAML as a policy file needs: mappings in blocks, and scalars that any reader takes for what they are.

/** Write a mapping of scalars, lists of scalars and mappings; inner mappings of scalars stand on one line. */
export function toYaml(mapping) {
  return `${Object.entries(mapping)
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([name, value]) => entry(name, value))
    .join("\n")}\n`;
}

function entry(name, value) {
  if (!isMapping(value)) return `${name}: ${inline(value)}`;
  const parts = Object.entries(value);
  if (parts.every(([, each]) => !isMapping(each)) && !["models", "vectors"].includes(name))
    return `${name}: ${inline(value)}`;
  return [`${name}:`, ...parts.map(([key, each]) => `  ${scalar(key)}: ${inline(each)}`)].join("\n");
}

function inline(value) {
  if (Array.isArray(value)) return `[${value.map(inline).join(", ")}]`;
  if (!isMapping(value)) return scalar(value);
  const parts = Object.entries(value).filter(([, each]) => each !== undefined && each !== null);
  return `{${parts.map(([name, each]) => `${scalar(name)}: ${inline(each)}`).join(", ")}}`;
}

const isMapping = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function scalar(value) {
  if (typeof value === "number")
    return Number.isInteger(value) ? String(value) : String(value).replace(/e/, "e+").replace("e+-", "e-");
  if (typeof value === "boolean") return String(value);
  const safe = /^[A-Za-z_][\w./-]*$/.test(value) && !/^(true|false|yes|no|on|off|null|y|n)$/i.test(value);
  return safe ? value : quoted(value);
}

/** In double quotes, as JSON writes it, with what YAML takes for a line end escaped as well. */
function quoted(value) {
  return JSON.stringify(value).replace(
    /[\u007f-\u00a0\u2028\u2029\ufeff]/g,
    (each) => `\\u${each.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
