use kube::CustomResourceExt;
fn main() {
    for crd in [gameday::api::GameDay::crd(), gameday::api::GameDayRun::crd(), gameday::api::Cord::crd()] {
        println!("---\n{}", serde_json::to_string(&crd).unwrap());
    }
}
