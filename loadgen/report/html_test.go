package report

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/opspawn/opscore/loadgen"
)

// look is a way to look at a page.
type look struct {
	name          string
	width, height int64
	scheme        string
	phone         bool
}

var looks = []look{
	{"desktop-light", 1280, 900, "light", false},
	{"desktop-dark", 1280, 900, "dark", false},
	{"phone-light", 390, 844, "light", true},
	{"phone-dark", 390, 844, "dark", true},
}

// browser starts a Chromium that cannot resolve any name, and ends it with the test.
func browser(t *testing.T) context.Context {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		t.Fatal("this test needs Chromium; install it, for example with: apt-get install --no-install-recommends chromium")
	}
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(path), chromedp.NoSandbox,
		chromedp.Flag("headless", "new"), chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND"))
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // waits for its end
		cancel()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	return ctx
}

// visit is what was seen of a page.
type visit struct {
	mu       sync.Mutex
	problems []string // of the console
	requests []string // for anything but the page itself
}

func (v *visit) note(list *[]string, format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	*list = append(*list, fmt.Sprintf(format, args...))
}

// open shows a file in a tab of its own, which lives as long as the test.
func open(t *testing.T, ctx context.Context, file string, l look) (context.Context, *visit) {
	t.Helper()
	ctx, cancel := chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	v := &visit{}
	url := "file://" + file
	err := chromedp.Listen(ctx, func(ev any) {
		switch ev := ev.(type) {
		case *runtime.EventConsoleAPICalled:
			v.note(&v.problems, "console: %v", ev.Args)
		case *runtime.EventExceptionThrown:
			v.note(&v.problems, "exception: %v", ev.ExceptionDetails)
		case *log.EventEntryAdded:
			v.note(&v.problems, "log: %s", ev.Entry.Text)
		case *network.EventRequestWillBeSent:
			if ev.Request.URL != url && !strings.HasPrefix(ev.Request.URL, "data:") {
				v.note(&v.requests, "%s", ev.Request.URL)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	call(t, ctx, network.Enable, network.EnableParams{})
	call(t, ctx, emulation.SetDeviceMetricsOverride,
		emulation.SetDeviceMetricsOverrideParams{Width: l.width, Height: l.height, DeviceScaleFactor: 1, Mobile: l.phone})
	call(t, ctx, emulation.SetEmulatedMedia,
		emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: l.scheme}}})
	if err := chromedp.Do(ctx, chromedp.Navigate(url)); err != nil {
		t.Fatal(err)
	}
	return ctx, v
}

func call[P, R any](t *testing.T, ctx context.Context, cmd cdp.Command[P, R], params P) R {
	t.Helper()
	r, err := chromedp.Call(ctx, cmd, params)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// eval returns the value of a script in the page.
func eval[T any](t *testing.T, ctx context.Context, script string) T {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](script))
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return v
}

func write(t *testing.T, r *loadgen.Result) (file, text string) {
	t.Helper()
	var b bytes.Buffer
	if err := HTML(&b, r); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "report.html")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, b.String()
}

// The screenshots are kept: go test -artifacts -outputdir DIR.
func TestReportInABrowser(t *testing.T) {
	ctx := browser(t)
	for name, r := range map[string]*loadgen.Result{"chaos": fixture(300), "quiet": quiet()} {
		file, _ := write(t, r)
		for _, l := range looks {
			t.Run(name+"/"+l.name, func(t *testing.T) {
				ctx, v := open(t, ctx, file, l)
				shot := call(t, ctx, page.CaptureScreenshot, page.CaptureScreenshotParams{CaptureBeyondViewport: new(true)}).Data
				if err := os.WriteFile(filepath.Join(t.ArtifactDir(), name+"-"+l.name+".png"), shot, 0o600); err != nil {
					t.Fatal(err)
				}
				if len(v.problems) > 0 {
					t.Errorf("the browser complains: %q", v.problems)
				}
				if len(v.requests) > 0 {
					t.Errorf("the page asks for %q, want nothing: it must open offline", v.requests)
				}
				content, wide := eval[int64](t, ctx, `document.documentElement.scrollWidth`), eval[string](t, ctx, overflowScript)
				if content > l.width || wide != "" {
					t.Errorf("the page is %v wide on a screen of %d: %s", content, l.width, wide)
				}
				paper, ink := eval[string](t, ctx, `getComputedStyle(document.body).backgroundColor`), eval[string](t, ctx, `getComputedStyle(document.body).color`)
				if dark := l.scheme == "dark"; (luminance(t, paper) < luminance(t, ink)) != dark {
					t.Errorf("%s: ink %s on %s", l.scheme, ink, paper)
				}
			})
		}
	}
}

// overflowScript names the elements that reach beyond the right edge, outside those that scroll.
const overflowScript = `[...document.querySelectorAll("body *")].filter((e) => !e.closest(".scroll, pre, svg, .hide") &&
	e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.tagName + "." + e.className).join(" ")`

// luminance is how light a colour as "rgb(1, 2, 3)" is, from 0 to 255.
func luminance(t *testing.T, rgb string) float64 {
	t.Helper()
	var r, g, b float64
	if _, err := fmt.Sscanf(rgb, "rgb(%f, %f, %f)", &r, &g, &b); err != nil {
		t.Fatalf("%q: %v", rgb, err)
	}
	return 0.2126*r + 0.7152*g + 0.0722*b
}

// Every text of a page must be told from its background: 4.5 to 1, as WCAG AA asks for.
func TestReportHasContrast(t *testing.T) {
	ctx := browser(t)
	file, _ := write(t, fixture(300))
	for _, l := range looks[:2] {
		t.Run(l.name, func(t *testing.T) {
			ctx, _ := open(t, ctx, file, l)
			if weak := eval[[]string](t, ctx, contrastScript); len(weak) > 0 {
				t.Errorf("too little contrast: %q", weak)
			}
		})
	}
}

// contrastScript lists the texts of a page that have less contrast than 4.5 to 1.
const contrastScript = `(() => {
	const rgb = (s) => s.match(/[\d.]+/g).map(Number);
	const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
	const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
	const weak = new Set();
	for (const e of document.querySelectorAll("body *")) {
		if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || e.closest("script, style, svg")) continue;
		const [a, b] = [light(rgb(getComputedStyle(e).color).slice(0, 3)), light(behind(e))].sort((x, y) => y - x);
		const ratio = (a + 0.05) / (b + 0.05);
		if (ratio < 4.5) weak.add(e.tagName + "." + e.className + " " + e.textContent.trim().slice(0, 30) + " " + ratio.toFixed(2));
	}
	return [...weak];
})()`

// The values under the pointer come from a script; it must find its way through gaps.
func TestReportShowsValuesUnderThePointer(t *testing.T) {
	ctx := browser(t)
	file, _ := write(t, fixture(300))
	ctx, v := open(t, ctx, file, looks[0])
	at := eval[string](t, ctx, `show(0.5); document.querySelector("#chart-users .at").textContent`)
	value := eval[string](t, ctx, `document.querySelector("#chart-users .names b").textContent`)
	gap := eval[string](t, ctx, `show(81.5 / 300); document.querySelectorAll("#chart-cpu .names b")[2].textContent`)
	if len(v.problems) > 0 {
		t.Errorf("the browser complains: %q", v.problems)
	}
	if at != "2:30" || value != "300" || gap != "–" {
		t.Errorf("in the middle the pointer shows %q users at %q, and the killed process as %q", value, at, gap)
	}
}
