//! Places for what may work at the same time, whose number can change.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Error;

/// Places that are given out in the order of asking.
#[derive(Debug)]
pub struct Slots {
    places: Arc<Semaphore>,
    count: Mutex<u32>,
}

impl Slots {
    pub fn new(count: u32) -> Self {
        Self { places: Arc::new(Semaphore::new(count as usize)), count: Mutex::new(count) }
    }

    pub async fn acquire(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.places).acquire_owned().await.map_err(|_| Error::Stopping)
    }

    /// Changes how many there are. What works goes on: places that are to go and are in use go when they are given back, and
    /// before anybody gets one of them who asks from now on.
    pub fn resize(&self, count: u32) {
        let before = std::mem::replace(&mut *self.count.lock().unwrap_or_else(PoisonError::into_inner), count);
        match count.checked_sub(before) {
            Some(more) => self.places.add_permits(more as usize),
            None => {
                let places = Arc::clone(&self.places);
                tokio::spawn(async move {
                    if let Ok(gone) = places.acquire_many_owned(before - count).await {
                        gone.forget();
                    }
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_that_are_in_use_go_when_they_are_given_back() {
        let slots = Slots::new(3);
        let [one, two, three] =
            [slots.acquire().await.unwrap(), slots.acquire().await.unwrap(), slots.acquire().await.unwrap()];
        slots.resize(1);
        tokio::task::yield_now().await;
        drop((one, two));
        tokio::task::yield_now().await;
        assert_eq!(slots.places.available_permits(), 0);
        drop(three);
        let only = slots.acquire().await.unwrap();
        assert_eq!(slots.places.available_permits(), 0);
        slots.resize(2);
        let second = slots.acquire().await.unwrap();
        drop((only, second));
        assert_eq!(slots.places.available_permits(), 2);
    }

    #[tokio::test]
    async fn fewer_and_more_again_is_what_there_was() {
        let slots = Slots::new(2);
        let held = [slots.acquire().await.unwrap(), slots.acquire().await.unwrap()];
        slots.resize(1);
        tokio::task::yield_now().await;
        slots.resize(2);
        tokio::task::yield_now().await;
        drop(held);
        tokio::task::yield_now().await;
        assert_eq!(slots.places.available_permits(), 2);
    }
}
