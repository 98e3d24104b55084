import { defineConfig } from "vite";

// The page is at /console, and its files are at /console/NAME. All addresses are relative,
// so that a proxy may add a prefix.
export default defineConfig({
  base: "",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: "../internal/console/dist",
    emptyOutDir: true,
    assetsDir: "",
    assetsInlineLimit: 0,
    modulePreload: false,
    target: "es2022",
  },
  experimental: {
    renderBuiltUrl: (name) => `console/${name}`,
  },
});
