// Before anything is drawn: the theme that the reader chose here; none means the system's.
try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // storage may be switched off: then it is the system's
}
