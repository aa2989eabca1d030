from tests.ranks.test_zero import *
if __name__=="__main__":
    [(student, figures, shown)] = really_trained(Ranks.alone(), [PlainConfig()])
    engines = [PlainConfig(), *(ZeroConfig(stage=stage, **SMALL | {"persistence": 200}) for stage in (1, 2, 3))]
    rs = on_ranks(2, really_trained, engines)
    for r in rs[0]:
        d = sorted(((distance({n:r[0][n]},{n:student[n]}), n) for n in student), reverse=True)[:6]
        print(d, max(abs(a/b-1) for a,b in zip(r[1], figures)), r[2]/shown-1)
