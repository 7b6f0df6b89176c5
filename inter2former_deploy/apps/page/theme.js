/** The page's colours: the machine's choice until somebody chooses here. */
const KEY = "i2f-theme";
const dark = matchMedia("(prefers-color-scheme: dark)");

/** @returns {"dark" | "light"} */
function current() {
  const chosen = localStorage.getItem(KEY);
  return chosen === "dark" || chosen === "light" ? chosen : dark.matches ? "dark" : "light";
}

/** @param {() => void} changed  what is drawn on the canvas has other colours, too */
export function followTheme(changed) {
  const apply = () => {
    document.documentElement.dataset.theme = current();
    changed();
  };
  dark.addEventListener("change", apply);
  apply();
  return () => {
    localStorage.setItem(KEY, current() === "dark" ? "light" : "dark");
    apply();
  };
}
