package bus_test
import ("testing";"time";"fmt";"context";"syscall";"github.com/opspawn/opscore/bus";"github.com/opspawn/opscore/bus/bustest";"github.com/opspawn/opscore/bus/event")
func cpu() time.Duration { var r syscall.Rusage; syscall.Getrusage(0,&r); return time.Duration(r.Utime.Nano()+r.Stime.Nano()) }
func TestZZ(t *testing.T){
	c := bustest.DialURL(t, bustest.ListeningServer(t).URL())
	const N=300000
	publish(t,c,commandMsg(event.KindAgentCordon,"x",""))
	errs := make(chan error, N)
	for i := range N { if err := c.PublishAsync(resultMsg(fmt.Sprint("agent-",i%20000), body), func(_ bus.Ack, err error) { errs <- err }); err != nil { t.Fatal(err) } }
	for range N { if err := <-errs; err != nil { t.Fatal(err) } }
	h:=func(_ context.Context, b []*bus.Msg) error { done(b); return nil }
	consume(t,c,bus.ConsumerConfig{Stream: event.StreamWork, Durable: event.ConsumerWorkflow, Handler: h})
	wantSettled(t,c,event.ConsumerWorkflow)
	c0,t0:=cpu(),time.Now(); <-time.After(5*time.Second)
	t.Log("idle workflow: cpu", cpu()-c0, "in", time.Since(t0))
	consume(t,c,bus.ConsumerConfig{Stream: event.StreamWork, Durable: event.ConsumerCommand, Handler: h})
	wantSettled(t,c,event.ConsumerCommand)
	c0,t0=cpu(),time.Now(); <-time.After(12*time.Second)
	t.Log("idle both: cpu", cpu()-c0, "in", time.Since(t0))
	for range 3 { t0=time.Now(); f,err:=c.AckFloor(t.Context(), event.StreamWork); t.Log("floor",f,err,time.Since(t0)) }
	for range 3 { t0=time.Now(); _,err:=c.IntakeTime(t.Context(), t0); t.Log("intake",err,time.Since(t0)) }
	for range 3 { t0=time.Now(); publish(t,c,commandMsg(event.KindAgentCordon,"x","")); wantSettled(t,c,event.ConsumerCommand); t.Log("one command", time.Since(t0)) }
	c0,t0=cpu(),time.Now()
	for i := range N { if err := c.PublishAsync(resultMsg(fmt.Sprint("agent-",i%20000), body), func(_ bus.Ack, err error) { errs <- err }); err != nil { t.Fatal(err) } }
	for range N { if err := <-errs; err != nil { t.Fatal(err) } }
	wantSettled(t,c,event.ConsumerWorkflow)
	t.Log("both running: ", N/time.Since(t0).Seconds(), "/s published and consumed; cpu", cpu()-c0, time.Since(t0))
}
